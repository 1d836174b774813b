"""A checkpoint of the research prototype as plain data: numbers, text, tensors and arrays.

The prototype calls `torch.save` on a dictionary with paths, numpy values and objects of its own
class `NormalizationStats` in it. Here paths become text, numpy scalars Python numbers, and those
objects the dictionary of their fields; see `pickled.py` for why nothing is run.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign.archive import Archive, open_archive
from spinlock.vqvae.foreign.pickled import ORDERED_DICT, Call, Global, Storage, read_pickle

STORAGES: Mapping[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
STATS = "spinlock.encoding.normalization.NormalizationStats"

_DEEPEST = 100  # of nested containers; the prototype's have 6
_PLAIN_DTYPE = re.compile("[biuf][1248]")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary that was saved at `path`, every tensor of it on the CPU.

    Raises ArtifactError when the file is absent, damaged, holds anything else than such
    checkpoints hold, or is not a dictionary. Nothing in it is run in any case.
    """
    with open_archive(path) as archive:
        names = [name for name in archive.names if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ArtifactError(
                f"{path}: not a file of torch.save: it has {len(names)} members 'data.pkl'."
            )
        root = names[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder").decode("ascii", "replace")
        if order != sys.byteorder:
            raise ArtifactError(
                f"{path}: its numbers are {order}-endian, this machine's {sys.byteorder}-endian. "
                "Save it again on a machine like this one."
            )
        pickled = read_pickle(archive.read(names[0]), _ALLOWED, str(path))
        content = _Reader(archive, root).value(pickled)
    if type(content) is not dict:
        raise ArtifactError(f"{path}: it holds a {type(content).__name__}, not a dictionary.")
    return content


class _Reader:
    """Gives what was pickled its meaning, each shared part once."""

    def __init__(self, archive: Archive, root: str) -> None:
        self.archive = archive
        self.root = root
        self.known: dict[int, Any] = {}
        self.inside: set[int] = set()
        self.storages: dict[Storage, Tensor] = {}

    def value(self, pickled: Any) -> Any:
        if not isinstance(pickled, Call | Storage | Global | dict | list | tuple):
            return pickled
        key = id(pickled)  # `pickled` is held by its parent for as long as this reads
        if key in self.known:
            return self.known[key]
        if key in self.inside or len(self.inside) > _DEEPEST:
            raise self.damaged("its values are nested too deep, or contain themselves")
        self.inside.add(key)
        found = self._value(pickled)
        self.inside.remove(key)
        self.known[key] = found
        return found

    def _value(self, pickled: Any) -> Any:
        if isinstance(pickled, dict):
            return {key: self.value(inner) for key, inner in pickled.items()}
        if isinstance(pickled, list | tuple):
            return type(pickled)(self.value(inner) for inner in pickled)
        if isinstance(pickled, Storage):
            return self.storage(pickled)
        if isinstance(pickled, Call) and pickled.name in _MEANINGS:
            args = tuple(self.value(inner) for inner in pickled.args)
            try:
                return _MEANINGS[pickled.name](self, args, self.value(pickled.state))
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                raise self.damaged(f"a {pickled.name} that cannot be: {error}") from None
        if isinstance(pickled, Global) and pickled.name == _NDARRAY:
            return pickled
        raise self.damaged(f"{pickled.name} where a value should be")

    def storage(self, storage: Storage) -> Tensor:
        """All numbers of a storage, in one dimension."""
        if storage in self.storages:
            return self.storages[storage]
        if storage.kind not in STORAGES:
            raise self.damaged(f"a storage of {storage.kind}")
        dtype = STORAGES[storage.kind]
        raw = bytearray(self.archive.read(f"{self.root}data/{storage.key}"))
        if len(raw) != storage.count * dtype.itemsize:
            raise self.damaged(
                f"storage '{storage.key}' should have {storage.count} numbers of "
                f"{dtype.itemsize} bytes, but has {len(raw)} bytes"
            )
        if not raw:
            found = torch.empty(0, dtype=dtype)
        elif dtype is torch.bool:  # a byte that is neither 0 nor 1 is not a bool
            found = torch.frombuffer(raw, dtype=torch.uint8).ne(0)
        else:
            found = torch.frombuffer(raw, dtype=dtype)
        self.storages[storage] = found
        return found

    def damaged(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.archive.path}: damaged: {what}.")


Meaning = Callable[[_Reader, tuple[Any, ...], Any], Any]


def _tensor(reader: _Reader, args: tuple[Any, ...], state: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2, for a view that lies within its storage."""
    del reader, state
    base, offset, size, stride, _requires_grad, *_hooks = args
    numbers = (offset, *size, *stride)
    if not isinstance(base, Tensor) or len(size) != len(stride):
        raise ValueError("a tensor without storage, or with other strides than sizes")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor whose sizes are not counts")
    count = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= len(base) or count > len(base)):
        raise ValueError(f"a tensor of sizes {size} outside its storage of {len(base)} numbers")
    return base.as_strided(size, stride, offset) if count else base.new_empty(size)


def _parameter(reader: _Reader, args: tuple[Any, ...], state: Any) -> Tensor:
    del reader, state
    data, _requires_grad, _hooks = args
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is not a tensor")
    return data


def _dtype(reader: _Reader, args: tuple[Any, ...], state: Any) -> np.dtype[Any]:
    """numpy.dtype, of booleans, integers and floats alone: objects would be pickles again."""
    del reader
    code, _align, _copy = args
    _version, order, subtype, names, fields, *_ = state
    plain = type(code) is str and _PLAIN_DTYPE.fullmatch(code) is not None
    if not plain or order not in "<>|" or (subtype, names, fields) != (None, None, None):
        raise ValueError(f"numbers of type {code!r}")
    found: np.dtype[Any] = np.dtype(order + code)
    return found


def _array(reader: _Reader, args: tuple[Any, ...], state: Any) -> NDArray[Any]:
    del reader, args
    _version, shape, dtype, fortran, raw = state
    if not isinstance(dtype, np.dtype) or type(raw) is not bytes:
        raise ValueError("an array that is not made of plain numbers")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _scalar(reader: _Reader, args: tuple[Any, ...], state: Any) -> bool | int | float:
    del reader, state
    dtype, raw = args
    if not isinstance(dtype, np.dtype) or type(raw) is not bytes or len(raw) != dtype.itemsize:
        raise ValueError("a scalar that is not one plain number")
    number: bool | int | float = np.frombuffer(raw, dtype)[0].item()
    return number


def _bytes(reader: _Reader, args: tuple[Any, ...], state: Any) -> bytes:
    """_codecs.encode, by which protocol 2 writes bytes as text."""
    del reader, state
    text, encoding = args
    if type(text) is not str or encoding != "latin1":
        raise ValueError("text in another encoding than latin1")
    return text.encode("latin1")


def _path(flavour: type[PurePosixPath | PureWindowsPath]) -> Meaning:
    def text(reader: _Reader, args: tuple[Any, ...], state: Any) -> str:
        del reader, state
        return str(flavour(*args))

    return text


def _stats(reader: _Reader, args: tuple[Any, ...], state: Any) -> dict[str, Any]:
    """The prototype's dataclass: its fields."""
    del reader
    if args or type(state) is not dict:
        raise ValueError("statistics without fields")
    return state


_NDARRAY = "numpy.ndarray"
_MEANINGS: dict[str, Meaning] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "numpy.dtype": _dtype,
    "_codecs.encode": _bytes,
    STATS: _stats,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"pathlib{part}.PosixPath": _path(PurePosixPath) for part in ("", "._local")},
    **{f"pathlib{part}.WindowsPath": _path(PureWindowsPath) for part in ("", "._local")},
}
_ALLOWED = {*_MEANINGS, *STORAGES, _NDARRAY, ORDERED_DICT}
