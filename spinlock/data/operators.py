"""What our own layout says of its operators beside their trajectories, for who writes it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float32, Float64, UInt64
from numpy import ndarray

from spinlock.data import schema
from spinlock.data.hdf5 import child, naming, open_hdf5, texts
from spinlock.data.reader import open_dataset
from spinlock.errors import DatasetError


@dataclass(frozen=True)
class Operators:
    """The first N operators of a file; see `schema` for each."""

    parameter_names: tuple[str, ...]
    unit: Float64[ndarray, "N P"]
    physical: list[Mapping[str, float | int | str]]
    conditioning: Float32[ndarray, "N K"]
    seeds: UInt64[ndarray, " N"]


def read_operators(path: Path, count: int) -> Operators:
    """The first `count` operators. Raises DatasetError for a file of another layout."""
    layout = open_dataset(path).info.layout
    if layout != "spinlock":
        raise DatasetError(
            f"{path}: a file of the layout '{layout}' does not say how its operators were drawn. "
            "Give one that `spinlock generate` has written."
        )
    with open_hdf5(path) as file, naming(path, "operators"):
        unit = child(file, schema.UNIT, path)
        table = child(file, schema.PHYSICAL, path)[:count]
        return Operators(
            parameter_names=texts(unit, "names", path),
            unit=unit[:count],
            physical=[
                {name: _plain(row[name].item()) for name in table.dtype.names} for row in table
            ],
            conditioning=child(file, schema.CONDITIONING, path)[:count],
            seeds=child(file, schema.SEEDS, path)[:count],
        )


def _plain(value: float | int | bytes) -> float | int | str:
    return value.decode() if isinstance(value, bytes) else value
