"""Where data and tokenizers are: a path, or a URI, whose files are brought to each node.

    /data/flow.h5                       a path of this machine
    s3://bucket/flow.h5                 any scheme of pyarrow's: s3, gs, abfs, hdfs, file
    s3://bucket/flow.h5#sha256:9f2c...  pinned: exactly these bytes, or an error

What a URI names, a file or all below a directory, is copied once per node and kept there by its
content, under SPINLOCK_CACHE (default ~/.cache/spinlock). Any process of the node may ask: one of
them copies, the others wait. A pinned copy that is there is used without asking the store.
Credentials are the environment's, as each store's own tools take them.
"""

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urldefrag, urlsplit

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from spinlock.config import SECRET
from spinlock.errors import SpinlockError
from spinlock.files import atomic_file, own_directory
from spinlock.progress import counted

_BLOCK = 16 << 20  # each is a request to a store
_PIN = "sha256:"


@dataclass(frozen=True)
class Uri:
    """The address of a file or directory in a store; `pin` is the SHA-256 of what stands there."""

    address: str
    pin: str | None = None

    def __str__(self) -> str:
        return self.address if self.pin is None else f"{self.address}#{self.pin}"

    @property
    def name(self) -> str:
        """The last part of the path, without which there is nothing to call a copy by."""
        return PurePosixPath(urlsplit(self.address).path).name


def located(value: object) -> Path | Uri:
    """A path or a URI from what a person wrote. Raises ValueError where it is neither."""
    if isinstance(value, Path | Uri):
        return value
    if not isinstance(value, str):
        raise ValueError("is a path, or a URI such as s3://bucket/flow.h5")
    if "://" not in value:
        return Path(value)
    address, fragment = urldefrag(value)
    if fragment and not (fragment.startswith(_PIN) and len(fragment) == len(_PIN) + 64):
        raise ValueError("what follows # in a URI is sha256: and 64 digits, or nothing")
    if urlsplit(address).username is not None:
        raise PydanticCustomError(  # which is a ValueError
            SECRET,
            "credentials do not belong into a URI, which is kept in logs. Give them by the "
            "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    uri = Uri(address, fragment or None)
    if uri.name in ("", ".."):
        raise ValueError("names a whole store, not a file or directory in it")
    return uri


Location = Annotated[
    Path | Uri,
    PlainValidator(located),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "path"}),
]


def pinned(location: Path | Uri) -> Path | Uri:
    """The same from any directory and, of a URI, at any time: pinned to what stands there now."""
    return location.resolve() if isinstance(location, Path) else _staged(location)[0]


def local(location: Path | Uri) -> Path:
    """The path on this node; what a URI names is copied here, if it is not here yet.

    Raises SpinlockError when it cannot be had, or is not what the URI is pinned to.
    """
    return location if isinstance(location, Path) else _staged(location)[1]


@cache
def _staged(uri: Uri) -> tuple[Uri, Path]:
    """The pinned URI, and its copy. Asked once per process: so long nothing changes under it."""
    place = own_directory(
        Path(os.environ.get("SPINLOCK_CACHE") or Path.home() / ".cache" / "spinlock"),
        "copies of what URIs name",
    )
    if uri.pin is not None and _copy(place, uri.pin, uri.name).exists():
        return uri, _copy(place, uri.pin, uri.name)
    named = hashlib.sha256(uri.address.encode()).hexdigest()[:32]
    try:
        with (place / f"{named}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held by one that copies; gone with its process
            pin = _fetch(uri, place, named)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        told = str(error).strip().splitlines()[0].rstrip(".")
        raise SpinlockError(
            f"{uri.address}: cannot be copied to {place}: {told}. Check the URI, and on every node "
            "the credentials in its environment and the room on its disk."
        ) from None
    if uri.pin not in (None, pin):
        raise SpinlockError(
            f"{uri.address}: what stands there has changed: it is {pin}, and {uri.pin} is asked "
            "for. Put the former back, or begin anew."
        )
    return replace(uri, pin=pin), _copy(place, pin, uri.name)


def _fetch(uri: Uri, place: Path, named: str) -> str:
    """The pin of what stands in the store, of which there is a copy afterwards.

    A note says what was seen in the store when it was copied; what looks the same is not copied
    again.
    """
    note, partial = place / f"{named}.json", place / f".{named}.partial"
    store, entries = _entries(uri)
    seen = [[entry.name, entry.size, entry.changed] for entry in entries]
    known = json.loads(note.read_text()) if note.is_file() else {}
    if known.get("seen") == seen and _copy(place, known["pin"], uri.name).exists():
        return str(known["pin"])
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        pin = _bring(store, entries, partial / uri.name)
        copy = _copy(place, pin, uri.name)
        copy.parent.mkdir(exist_ok=True)
        if not copy.exists():  # the same may have come from another address
            (partial / uri.name).rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    with atomic_file(note) as beside:
        beside.write_text(json.dumps({"address": uri.address, "seen": seen, "pin": pin}))
    return pin


@dataclass(frozen=True)
class _Entry:
    """A file to be copied: its path in the store, and its name below the copy ("" for a file)."""

    path: str
    name: str
    size: int
    changed: int


def _entries(uri: Uri) -> tuple[Any, list[_Entry]]:
    """The store, and what the URI names in it, by name."""
    from pyarrow import fs  # 0.2 s, which those with paths do not need

    store, path = fs.FileSystem.from_uri(uri.address)
    found = store.get_file_info(path)
    if found.type == fs.FileType.NotFound:
        raise FileNotFoundError("nothing stands there")
    whole = [found]
    if found.type == fs.FileType.Directory:
        inside = store.get_file_info(fs.FileSelector(path, recursive=True))
        whole = [each for each in inside if each.type == fs.FileType.File]
    base = found.path if found.type == fs.FileType.Directory else path
    entries = [
        _Entry(each.path, each.path[len(base) :].strip("/"), each.size, each.mtime_ns or 0)
        for each in whole
    ]
    for entry in entries:  # a key of a store may be any text
        if {"..", ".", ""} & {*entry.name.split("/")} and entry.name:
            raise ValueError(f"{entry.path!r} there names no file below the directory")
    return store, sorted(entries, key=lambda entry: entry.name)


def _bring(store: Any, entries: list[_Entry], to: Path) -> str:
    """Copy the entries, and tell the SHA-256 of them all as a pin.

    Of a file it is that of its bytes; of a directory, of the lines of `sha256sum` by name.
    """
    sums, total = dict[str, str](), sum(entry.size for entry in entries)
    with counted("kB", to.name) as tell:
        done = 0
        for entry in entries:
            path = to / entry.name if entry.name else to
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with store.open_input_stream(entry.path) as source, path.open("wb") as target:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    target.write(block)
                    done += len(block)
                    tell(-(-done // 1000), -(-total // 1000))
                target.flush()
                os.fsync(target.fileno())
            sums[entry.name] = digest.hexdigest()
    if "" in sums:
        return _PIN + sums[""]
    lines = "".join(f"{found}  {name}\n" for name, found in sums.items())
    return _PIN + hashlib.sha256(lines.encode()).hexdigest()


def _copy(place: Path, pin: str, name: str) -> Path:
    return place / pin.removeprefix(_PIN) / name
