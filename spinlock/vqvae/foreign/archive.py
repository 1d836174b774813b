"""A zip archive from a stranger, read without unpacking anything to disk.

`torch.save` and `numpy.savez` store their members uncompressed. Whatever is compressed, encrypted,
named twice or larger than the file that holds it is refused before a byte of it is read, so no
archive takes more memory than its own size.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinlock.errors import ArtifactError

ENCRYPTED = 0x1

_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,  # a zip feature that Python does not know
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted member whose flag was hidden in the directory
    ValueError,
    struct.error,
)


class Archive:
    """The members of an open archive, by name."""

    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        self.path = path
        self._opened = opened
        self.names = _checked_names(path, opened)

    def read(self, name: str) -> bytes:
        """One member's bytes, which pass its checksum. Raises ArtifactError if it is not there."""
        if name not in self.names:
            raise ArtifactError(
                f"{self.path}: damaged: it refers to a member '{name}' that it does not have."
            )
        try:
            return self._opened.read(name)
        except _DAMAGE as error:
            raise ArtifactError(f"{self.path}: its member '{name}' is damaged: {error}.") from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive at `path`. Raises ArtifactError when it is absent, damaged or dishonest."""
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file.")
    try:
        opened = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise ArtifactError(
            f"{path}: not a whole zip archive, which torch.save writes since torch 1.6: {error}. "
            "A file that was cut short must be copied again; an older one be saved again by the "
            "program that wrote it."
        ) from None
    with opened:
        yield Archive(path, opened)


def _checked_names(path: Path, opened: zipfile.ZipFile) -> frozenset[str]:
    members = opened.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
            raise ArtifactError(
                f"{path}: its member '{member.filename}' is compressed or encrypted; "
                "torch.save and numpy.savez do neither."
            )
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ArtifactError(f"{path}: two of its members have the same name.")
    claimed, size = sum(member.file_size for member in members), path.stat().st_size
    if claimed > size:
        raise ArtifactError(f"{path}: its members claim {claimed} bytes, but the file has {size}.")
    return frozenset(names)
