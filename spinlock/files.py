"""Files that are either whole or absent: written beside their place, synced, then renamed."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from spinlock.errors import SpinlockError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it takes the place of `path` in one step.

    A reader sees the old file or the new one, never a part. On an exception nothing is left.
    What the disk refuses, here or while `path` is written, is a SpinlockError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            _sync(beside)
            beside.replace(path)
            _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from None


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path` to fill; on success it takes the place of `path`.

    Directories cannot be swapped in one portable step: an older `path` is moved aside first,
    so between two renames a reader may find nothing, but never a mixture. What the disk refuses
    is a SpinlockError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    aside = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            path.rename(aside)
        beside.rename(path)
        _sync(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def refuse_foreign(path: Path, purpose: str, ours: Collection[str] = ()) -> None:
    """Raise SpinlockError unless `path` may become the directory for `purpose`; makes nothing.

    It may where there is nothing yet, or an empty directory, or one that holds any of `ours`: names
    that nobody else gives.
    """
    above = next(place for place in (path, *path.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        found = "may not be written to" if above.is_dir() else "is a file"
        raise SpinlockError(
            f"{path}: cannot be the directory for {purpose}: {above} {found}. Choose another."
        )
    others = sorted(entry.name for entry in path.iterdir()) if above == path else []
    if others and not {*ours} & {*others}:
        raise SpinlockError(
            f"{path}: this directory holds other things than {purpose}, such as {others[0]}. "
            "Choose one that is empty or does not exist."
        )


def own_directory(path: Path, purpose: str) -> Path:
    """`path` as a directory that exists, made if need be; it is the user's choice for `purpose`.

    Raises SpinlockError when it cannot be one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpinlockError(
            f"{path}: cannot be the directory for {purpose}: {error.strerror}. Choose another."
        ) from None
    return path


def fingerprint(path: Path) -> str:
    """SHA-256 of the file's bytes, as `sha256:<hex>`."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _refused(path: Path, error: OSError) -> SpinlockError:
    return SpinlockError(
        f"{path}: cannot be written: {error.strerror or error}. Put this right, or choose "
        "another place."
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
