"""Ray's token on this machine: whoever can read it can run programs as its user.

Ray 2.60 makes the file with the mode that the umask leaves, 0644 on most machines. Here it is
made, or mended, before Ray looks for it, so that it is never open to others for a moment.
"""

import os
import secrets
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from spinlock.errors import SearchError

_OTHERS = 0o077


def protect_token(*, make: bool = True) -> None:
    """See to it that the file of the token is its owner's alone; `make` it where there is none.

    One that Ray would not use is left alone: a token may come from RAY_AUTH_TOKEN, and
    RAY_AUTH_MODE may ask for none. Raises SearchError where the file cannot be protected.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        if make and not named and not path.exists():
            _create(path)
        if path.is_file() and path.stat().st_mode & _OTHERS:
            path.chmod(0o600)
    except OSError as error:
        raise SearchError(
            f"{path}: the token of Ray must be a file of its owner alone, and cannot be made one: "
            f"{error.strerror}. Put this right, or set RAY_AUTH_TOKEN_PATH to a file of your own."
        ) from None


def _create(path: Path) -> None:
    """Put a new token there, whole and of mode 0600 from the first moment on.

    Of two processes that do so at once, one finds the other's token and keeps it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))  # as Ray makes it
            stream.flush()
            os.fsync(stream.fileno())
        path.hardlink_to(beside)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    # Ray keeps in mind that there was none.
    AuthenticationTokenLoader.instance().reset_cache()
