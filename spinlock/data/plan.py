"""What is known of a dataset before its first operator is made, and the HDF5 file that holds it."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32, Float64, UInt64
from numpy import ndarray

from spinlock.data import schema
from spinlock.errors import DatasetError


@dataclass(frozen=True)
class Plan:
    """Everything that stands in the file but fields and features."""

    config: dict[str, Any]
    provenance: dict[str, Any]
    domain: str
    channel_names: tuple[str, ...]
    parameter_names: tuple[str, ...]
    unit: Float64[ndarray, "N P"]
    physical: Sequence[Mapping[str, float | int | str]]
    conditioning_names: tuple[str, ...]
    conditioning: Float32[ndarray, "N K"]
    seeds: UInt64[ndarray, " N"]
    realizations: int
    frames: int
    grid: int
    dtype: np.dtype[Any]
    features: dict[str, tuple[str, ...]]
    """Names of each family's columns; empty when no features are stored."""

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of every array that is written operator by operator."""
        operators, state = len(self.seeds), (len(self.channel_names), self.grid, self.grid)
        single = np.dtype("<f4")
        arrays = {
            schema.INPUTS: ((operators, *state), single),
            schema.OUTPUTS: ((operators, self.realizations, self.frames, *state), self.dtype),
        }
        for family, names in self.features.items():
            shape = (operators, self.realizations, len(names))
            arrays[f"{schema.FEATURES}/{family}"] = (shape, single)
        return arrays

    def size(self) -> int:
        """Bytes of all these arrays."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.arrays().values())


def create(path: Path, plan: Plan) -> None:
    """The whole file, fields unwritten. Raises OSError when the disk refuses.

    HDF5 2.0 can crash the process when one of its own writes fails, so the disk is asked for
    room before HDF5 begins.
    """
    table = _table(plan.physical)
    known = (plan.unit, plan.conditioning, plan.seeds, table)
    texts = len(_json(plan.config)) + len(_json(plan.provenance))
    header = sum(values.nbytes for values in known) + texts + (1 << 20)
    with path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, header + plan.size())
    with h5py.File(path, "w") as file:
        _fill(file, plan, table)


def _fill(file: h5py.File, plan: Plan, physical: ndarray) -> None:
    file.attrs["format"] = schema.FORMAT
    file.attrs["schema_version"] = schema.SCHEMA_VERSION
    unit = file.create_dataset(schema.UNIT, data=plan.unit.astype("<f8"))
    unit.attrs["names"] = list(plan.parameter_names)
    file.create_dataset(schema.PHYSICAL, data=physical)
    conditioning = file.create_dataset(schema.CONDITIONING, data=plan.conditioning)
    conditioning.attrs["names"] = list(plan.conditioning_names)
    file.create_dataset(schema.SEEDS, data=plan.seeds.astype("<u8"))
    file.create_dataset(schema.CONFIG, data=_json(plan.config))
    file.create_dataset(schema.PROVENANCE, data=_json(plan.provenance))
    file["metadata"].attrs["domain"] = plan.domain
    _place(file, schema.COMPLETED, (), np.dtype("<u8"))[()] = 0
    for name, (shape, dtype) in plan.arrays().items():
        _place(file, name, shape, dtype)
    file[schema.INPUTS].attrs["channel_names"] = list(plan.channel_names)
    for family, names in plan.features.items():
        file[schema.FEATURES][family].attrs["names"] = list(names)


def _place(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> h5py.Dataset:
    """A contiguous dataset that has its address from the start and is not filled."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, shape=shape, dtype=dtype, dcpl=layout)


def locate(partial: Path, plan: Plan) -> tuple[dict[str, int], int]:
    """Byte offsets of the arrays in a partial file of this very plan, and operators completed."""
    redo = f"Delete {partial} to begin anew, or go back to what it was begun with."
    try:
        with h5py.File(partial, "r") as file:
            found = json.loads(file[schema.CONFIG].asstr()[()])
            begun = json.loads(file[schema.PROVENANCE].asstr()[()])
            drawn = file[schema.UNIT][:], file[schema.SEEDS][:]
            names = (*plan.arrays(), schema.COMPLETED)
            offsets = {name: int(file[name].id.get_offset()) for name in names if name in file}
            completed = int(file[schema.COMPLETED][()])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{partial}: not a partial dataset that can be continued: {error}. Delete it."
        ) from None
    if found != plan.config:
        changed = [
            f"{key}: {_short(found.get(key))} there, {_short(plan.config.get(key))} now"
            for key in sorted({*found, *plan.config})
            if found.get(key) != plan.config.get(key)
        ]
        raise DatasetError(
            f"{partial}: begun with another configuration ({'; '.join(changed)}). {redo}"
        )
    if begun["versions"] != plan.provenance["versions"]:
        raise DatasetError(
            f"{partial}: begun with versions {begun['versions']}; now "
            f"{plan.provenance['versions']}, whose numbers may differ. {redo}"
        )
    if not (np.array_equal(drawn[0], plan.unit) and np.array_equal(drawn[1], plan.seeds)):
        raise DatasetError(
            f"{partial}: this Spinlock draws other parameters or seeds from the same "
            f"configuration than the one that began the file. {redo}"
        )
    return offsets, completed


def _table(rows: Sequence[Mapping[str, float | int | str]]) -> ndarray:
    """Rows of named values as one structured array; strings as fixed-length UTF-8 bytes."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {
        name: np.array([str(v).encode() for v in values])
        if isinstance(values[0], str)
        else np.array(values, dtype="<i8" if all(type(v) is int for v in values) else "<f8")
        for name, values in columns.items()
    }
    table = np.empty(len(rows), dtype=[(name, column.dtype) for name, column in arrays.items()])
    for name, column in arrays.items():
        table[name] = column
    return table


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
