"""The Well's layout (Ohana et al. 2024, arXiv:2412.00568), files of two spatial dimensions.

A field or scalar is stored without the axes it does not vary along; its flags say which. Fields
of order 0, 1 and 2 (scalars, vectors, tensors; components last) become channels in the order of
the file's `field_names`. The first spatial axis is H, the second W.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from spinlock.data.adapters.base import Adapter, selection
from spinlock.data.hdf5 import array, attribute, child, group, text, texts
from spinlock.data.info import DatasetInfo
from spinlock.errors import DatasetError


@dataclass(frozen=True)
class _Field:
    """A time-varying field: `components` channels of [trajectory?][time][x?][y?](2)(2)."""

    dataset: h5py.Dataset
    names: tuple[str, ...]
    per_sample: bool
    varies: tuple[bool, bool]
    order: int

    def read(self, item: int, frames: range) -> ndarray:
        """[T, h, w, components], where h or w is 1 if the field does not vary along it."""
        head = (item,) if self.per_sample else ()
        values = np.asarray(self.dataset[(*head, selection(frames))])
        spatial = values.shape[1 : values.ndim - self.order]
        sizes = iter(spatial)
        grid = tuple(next(sizes) if varies else 1 for varies in self.varies)
        return values.reshape(len(frames), *grid, len(self.names))


class TheWellAdapter(Adapter):
    """Physical parameters are the file's scalars, constants included; static fields are named."""

    signature = "groups dimensions, scalars, t0_fields, t1_fields, t2_fields"

    @classmethod
    def recognises(cls, file: h5py.File) -> bool:
        return any(f"t{order}_fields" in file for order in range(3))

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._path = path
        self._name = text(file.attrs.get("dataset_name", ""))
        self._count = _trajectories(file, path)
        dimensions = group(file, "dimensions", path)
        if dimensions is None:
            raise DatasetError(f"{path}: group 'dimensions' is missing.")
        axes = texts(dimensions, "spatial_dims", path)
        if len(axes) != 2:
            raise DatasetError(
                f"{path}: the fields have {len(axes)} spatial dimensions ({', '.join(axes)}); "
                "Spinlock reads files with two."
            )
        self._grid = tuple(array(dimensions, axis, "x", path).shape[-1] for axis in axes)
        self._fields: list[_Field] = []
        self._static: list[str] = []
        for order in range(3):
            fields = group(file, f"t{order}_fields", path)
            if fields is not None:
                self._collect(fields, order, axes)
        self._frames = self._common_frames()
        self._names, self._parameters = _scalars(file, self._count, path)

    def _collect(self, fields: h5py.Group, order: int, axes: tuple[str, ...]) -> None:
        for name in texts(fields, "field_names", self._path):
            dataset = child(fields, name, self._path)
            if dataset.dtype.kind not in "fiu":
                raise DatasetError(
                    f"{self._path}: '{dataset.name.lstrip('/')}' holds {dataset.dtype}; expected "
                    "numbers."
                )
            per_sample = _flag(dataset, "sample_varying", self._path)
            in_time = _flag(dataset, "time_varying", self._path)
            flags = np.atleast_1d(dataset.attrs.get("dim_varying", (True, True)))
            varies = [bool(np.all(flag)) for flag in flags]
            if len(varies) != 2:
                raise DatasetError(
                    f"{self._path}: 'dim_varying' of '{dataset.name.lstrip('/')}' has "
                    f"{len(varies)} entries; expected 2, one for each spatial dimension."
                )
            grid = [size for size, v in zip(self._grid, varies, strict=True) if v]
            expected = [self._count] * per_sample + [-1] * in_time + grid + [2] * order
            shape = [-1 if i == per_sample and in_time else n for i, n in enumerate(dataset.shape)]
            if shape != expected:
                wanted = ["T" if n == -1 else str(n) for n in expected]
                raise DatasetError(
                    f"{self._path}: '{dataset.name.lstrip('/')}' has shape {dataset.shape}; its "
                    f"flags and the grid call for ({', '.join(wanted)})."
                )
            if not in_time:
                self._static.append(name)
                continue
            if dataset.size == 0:
                raise DatasetError(
                    f"{self._path}: '{dataset.name.lstrip('/')}' is empty: shape {dataset.shape}."
                )
            parts = [""] if order == 0 else ["".join(p) for p in _components(axes, order)]
            names = tuple(f"{name}_{part}" if part else name for part in parts)
            self._fields.append(_Field(dataset, names, per_sample, (varies[0], varies[1]), order))

    def _common_frames(self) -> int:
        counts = {f.dataset.name.lstrip("/"): f.dataset.shape[f.per_sample] for f in self._fields}
        if not counts:
            raise DatasetError(
                f"{self._path}: no field varies in time, so there is no trajectory in it."
            )
        if len(set(counts.values())) > 1:
            found = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            raise DatasetError(f"{self._path}: the fields differ in frames: {found}.")
        return int(next(iter(counts.values())))

    def info(self, fingerprint: str) -> DatasetInfo:
        channels = tuple(name for field in self._fields for name in field.names)
        return DatasetInfo(
            path=self._path,
            layout="the_well",
            domain=self._name,
            operators=self._count,
            realizations=1,
            frames=self._frames,
            channels=len(channels),
            height=self._grid[0],
            width=self._grid[1],
            channel_names=channels,
            parameter_names=self._names,
            parameter_kind="physical" if self._names else "none",
            features=(),
            static_names=tuple(self._static),
            fingerprint=fingerprint,
        )

    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        channel = 0
        for field in self._fields:
            end = channel + len(field.names)
            into[:, channel:end] = np.moveaxis(field.read(item, frames), -1, 1)
            channel = end

    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        self.fill(item, range(1), into[None])

    def parameters(self) -> Float32[ndarray, "N P"]:
        return self._parameters

    def features(self, family: str) -> ndarray:
        raise KeyError(family)

    def feature_names(self, family: str) -> tuple[str, ...]:
        raise KeyError(family)


def _trajectories(file: h5py.File, path: Path) -> int:
    count = attribute(file, "n_trajectories", path)
    if count < 1:
        raise DatasetError(f"{path}: n_trajectories is {count}: the file holds no samples.")
    return count


def _scalars(
    file: h5py.File, count: int, path: Path
) -> tuple[tuple[str, ...], Float32[ndarray, "N P"]]:
    """Names and values of the scalars, one row for each trajectory."""
    stored = group(file, "scalars", path)
    if stored is None:
        raise DatasetError(f"{path}: group 'scalars' is missing.")
    names = texts(stored, "field_names", path)
    rows = np.empty((count, len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        scalar = child(stored, name, path)
        if _flag(scalar, "time_varying", path):
            raise DatasetError(
                f"{path}: scalar '{name}' varies in time; a parameter must be constant along a "
                "trajectory. Make it a field, or take it out of 'field_names'."
            )
        expected = (count,) if _flag(scalar, "sample_varying", path) else ()
        if scalar.dtype.kind not in "fiu":
            raise DatasetError(f"{path}: scalar '{name}' holds {scalar.dtype}; expected numbers.")
        if scalar.shape != expected:
            raise DatasetError(
                f"{path}: scalar '{name}' has shape {scalar.shape}; its flags call for {expected}."
            )
        rows[:, column] = scalar[()]
    return names, rows


def _flag(node: h5py.Dataset, name: str, path: Path) -> bool:
    if name not in node.attrs:
        raise DatasetError(
            f"{path}: attribute '{name}' of '{node.name.lstrip('/')}' is missing; without it the "
            "axes are not known."
        )
    return bool(attribute(node, name, path))


def _components(axes: tuple[str, ...], order: int) -> list[tuple[str, ...]]:
    """Index names of a tensor's components, last index fastest, as they lie in the file."""
    names: list[tuple[str, ...]] = [()]
    for _ in range(order):
        names = [(*name, axis) for name in names for axis in axes]
    return names
