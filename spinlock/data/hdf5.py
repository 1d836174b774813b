"""HDF5 files opened and looked into, with errors that name the file, the dataset and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spinlock.errors import DatasetError


def open_hdf5(path: Path) -> h5py.File:
    """The file opened for reading. Raises DatasetError for anything that is no whole HDF5 file."""
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.h5"))[:5] if path.parent.is_dir() else []
        hint = f" In that directory: {', '.join(near)}." if near else ""
        raise DatasetError(f"{path}: there is no such file.{hint}")
    if path.is_dir():
        raise DatasetError(f"{path}: this is a directory; expected one HDF5 file.")
    try:
        if path.stat().st_size == 0:
            raise DatasetError(f"{path}: the file is empty (0 bytes). Make or copy it again.")
        if not h5py.is_hdf5(path):
            with path.open("rb") as stream:
                start = stream.read(8)
            raise DatasetError(f"{path}: not an HDF5 file; it begins with the bytes {start!r}.")
        return h5py.File(path, "r", locking="best-effort")
    except PermissionError:
        raise DatasetError(f"{path}: no permission to read this file.") from None
    except OSError as error:
        raise DatasetError(_damage(path, error)) from None


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py raises on damaged content into a DatasetError that says what was read.

    h5py has no exceptions of its own: HDF5's failures surface as OSError (raw data, filters)
    or RuntimeError (metadata).
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DatasetError(_damage(path, error, what)) from None


def child(parent: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """The dataset `name` under `parent`, which must be there and hold at least one value."""
    where = f"{parent.name.rstrip('/')}/{name}".lstrip("/")
    node = parent.get(name)
    if node is None:
        near = ", ".join(sorted(parent)) or "nothing"
        raise DatasetError(
            f"{path}: dataset '{where}' is missing; '{parent.name}' holds {near}. "
            "Complete the file or generate it again."
        )
    if not isinstance(node, h5py.Dataset):
        raise DatasetError(f"{path}: '{where}' is a group; expected a dataset.")
    if node.shape is None:
        raise DatasetError(f"{path}: '{where}' is there, but holds no value.")
    return node


def array(parent: h5py.Group, name: str, axes: str, path: Path) -> h5py.Dataset:
    """The numeric dataset `name`, with one axis for each letter of `axes`, none of them empty."""
    node = child(parent, name, path)
    expected = f"[{', '.join(axes)}]"
    where = node.name.lstrip("/")
    if node.ndim != len(axes):
        raise DatasetError(
            f"{path}: '{where}' has {node.ndim} axes, shape {node.shape}; "
            f"expected {len(axes)}: {expected}."
        )
    if node.dtype.kind not in "fiu":
        raise DatasetError(f"{path}: '{where}' holds {node.dtype}; expected numbers.")
    if node.size == 0:
        raise DatasetError(
            f"{path}: '{where}' is empty: shape {node.shape} for {expected}. "
            "The file holds no samples."
        )
    return node


def group(parent: h5py.Group, name: str, path: Path) -> h5py.Group | None:
    """The group `name` under `parent`; None where there is nothing of that name."""
    node = parent.get(name)
    if node is not None and not isinstance(node, h5py.Group):
        raise DatasetError(f"{path}: '{name}' is a dataset; expected a group.")
    return node


def scalar(node: h5py.Dataset, path: Path) -> int:
    """The one whole number that a dataset holds."""
    if node.shape != () or node.dtype.kind not in "iu":
        raise DatasetError(
            f"{path}: '{node.name.lstrip('/')}' has shape {node.shape} of {node.dtype}; expected "
            "one whole number."
        )
    return int(node[()])


def attribute(node: h5py.HLObject, name: str, path: Path) -> int:
    """The one whole number (or truth value) in attribute `name` of `node`."""
    if name not in node.attrs:
        raise DatasetError(f"{path}: attribute '{name}' of '{node.name}' is missing.")
    value = np.asarray(node.attrs[name])
    if value.size != 1 or value.dtype.kind not in "iub":
        raise DatasetError(
            f"{path}: attribute '{name}' of '{node.name}' is {node.attrs[name]!r}; expected one "
            "whole number."
        )
    return int(value.item())


def same_length(first: h5py.Dataset, second: h5py.Dataset, path: Path) -> None:
    """Raise DatasetError unless both have as many rows."""
    if second.ndim == 0:
        raise DatasetError(f"{path}: '{second.name.lstrip('/')}' is one value; expected an array.")
    if first.shape[0] != second.shape[0]:
        raise DatasetError(
            f"{path}: '{first.name.lstrip('/')}' has {first.shape[0]} rows and "
            f"'{second.name.lstrip('/')}' {second.shape[0]}; they must describe the same operators."
        )


def text(value: object) -> str:
    """An HDF5 string as Python text, whether it was written as bytes or as unicode."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def texts(node: h5py.HLObject, name: str, path: Path) -> tuple[str, ...]:
    """The list of strings in attribute `name` of `node`."""
    if name not in node.attrs:
        raise DatasetError(f"{path}: attribute '{name}' of '{node.name}' is missing.")
    values = np.atleast_1d(node.attrs[name])
    if values.ndim != 1 or (values.size and values.dtype.kind not in "OSU"):
        raise DatasetError(
            f"{path}: attribute '{name}' of '{node.name}' is {node.attrs[name]!r}; expected names."
        )
    return tuple(text(value) for value in values)


def names_of(node: h5py.Dataset, name: str, axis: int, path: Path) -> tuple[str, ...]:
    """The strings in attribute `name` of `node`, one for each place along `axis`."""
    found = texts(node, name, path)
    if len(found) != node.shape[axis]:
        raise DatasetError(
            f"{path}: attribute '{name}' of '{node.name}' has {len(found)} names, and the data "
            f"{node.shape[axis]} columns: shape {node.shape}."
        )
    return found


def _damage(path: Path, error: Exception, what: str = "") -> str:
    reason = str(error).strip().rstrip(".")
    place = f"{path}: {what}: " if what else f"{path}: "
    if "truncated file" in reason:
        return (
            f"{place}the file is truncated: HDF5 says '{reason}'. "
            "It was cut short while copying or writing; copy or generate it again."
        )
    return f"{place}damaged, or not readable: HDF5 says '{reason}'. Copy or generate it again."
