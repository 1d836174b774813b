"""Datasets opened by structure and read lazily: only the asked items and frames leave the disk."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from spinlock.data.adapters import adapt
from spinlock.data.adapters.base import Adapter
from spinlock.data.fingerprint import fingerprint
from spinlock.data.hdf5 import naming, open_hdf5
from spinlock.data.info import DatasetInfo
from spinlock.errors import DatasetError
from spinlock.location import Uri, local


def open_dataset(location: Path | Uri) -> "TrajectoryDataset":
    """The dataset in the HDF5 file at `location`, of any known layout.

    Raises DatasetError when it is absent, damaged, incomplete or of no known layout. The
    first time in a process it reads the whole file to fingerprint it.
    """
    path = local(location)
    with open_hdf5(path) as file, naming(path, "structure"):
        info = adapt(file, path).info(fingerprint(path))
    return TrajectoryDataset(info)


@dataclass(frozen=True)
class Verification:
    """What `verify` has read; as text, the sentence that says so."""

    info: DatasetInfo
    undefined: dict[str, tuple[int, int]]
    """For each family with features that are not finite, how many, and of how many."""

    def __str__(self) -> str:
        info, items = self.info, self.info.items
        fields = f"{items} trajectories of {info.frames} frames, " if info.frames else ""
        features = f", features {', '.join(info.features)}" if info.features else ""
        judged = f"Judged: {fields}initial fields, parameters{features}."
        if not self.undefined:
            return f"Every stored number is finite. {judged}"
        exceptions = ", ".join(
            f"{bad} of {size} of features '{family}'"
            for family, (bad, size) in self.undefined.items()
        )
        return f"Every stored number is finite but {exceptions}, as its layout allows. {judged}"


class TrajectoryDataset:
    """Trajectories, initial conditions, parameters and features of one file.

    Safe to pickle and to use in forked or spawned workers: each process opens its own handle at
    its first read. What is read is checked: a value that is not finite is a DatasetError with its
    place. Items and frames are given by index; an index outside is an IndexError.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self._open: Adapter | None = None
        self._process = 0
        self._rows: ndarray | None = None

    def __len__(self) -> int:
        return self.info.items

    def trajectories(
        self, items: Sequence[int], frames: slice = slice(None)
    ) -> Float[Tensor, "B T C H W"]:
        """float32 fields of `items`, of the frames in `frames` (an ascending slice) alone.

        Raises DatasetError when the file stores no trajectories.
        """
        info = self.info
        if info.frames == 0:
            raise DatasetError(
                f"{info.path}: no trajectories are stored in it, only initial fields and features "
                f"({', '.join(info.features)}). Training an operator needs trajectories: give a "
                "file that has them, or generate one with `spinlock generate`."
            )
        steps = range(info.frames)[frames]
        if steps.step < 1:
            raise IndexError(f"frames must ascend, got {frames}")
        grid = (info.channels, info.height, info.width)
        values = np.empty((len(items), len(steps), *grid), dtype=np.float32)
        adapter = self._adapter()
        for row, item in enumerate(self._valid(items)):
            with naming(info.path, self._place(item)):
                adapter.fill(item, steps, values[row])
            self._check(values[row], item, steps)
        return torch.from_numpy(values)

    def initial(self, items: Sequence[int]) -> Float[Tensor, "B C H W"]:
        """float32 initial conditions: the state of frame 0, also in files without trajectories."""
        info = self.info
        values = np.empty((len(items), info.channels, info.height, info.width), dtype=np.float32)
        adapter = self._adapter()
        for row, item in enumerate(self._valid(items)):
            with naming(info.path, self._place(item)):
                adapter.fill_initial(item, values[row])
            self._check(values[row, None], item, range(1))
        return torch.from_numpy(values)

    def parameters(self, items: Sequence[int]) -> Float[Tensor, "B P"]:
        """float32 parameters of each item's operator; `info.parameter_kind` says of what kind.

        P is 0 for a file that has none.
        """
        if self._rows is None:
            with naming(self.info.path, "parameters"):
                rows = self._adapter().parameters()
            bad = np.argwhere(~np.isfinite(rows))
            if len(bad):
                operator, column = bad[0]
                raise DatasetError(
                    f"{self.info.path}: parameter '{self.info.parameter_names[column]}' of "
                    f"operator {operator} is {rows[operator, column]}."
                )
            self._rows = rows
        operators = [item // self.info.realizations for item in self._valid(items)]
        return torch.from_numpy(self._rows[operators])

    def features(self, family: str) -> ndarray:
        """Stored features of one family, with the axes and the values (NaN too) of the file."""
        self._require(family)
        with naming(self.info.path, f"features '{family}'"):
            return self._adapter().features(family)

    def feature_names(self, family: str) -> tuple[str, ...]:
        """Names along the last axis of `features(family)`; empty when the file does not tell."""
        self._require(family)
        return self._adapter().feature_names(family)

    def feature_rows(self, family: str) -> tuple[tuple[str, ...], Float[ndarray, "N n"]]:
        """Stored features of one family as a row for each item, with their columns' names.

        Of features per frame, the mean over time. Features of an operator stand in the row of each
        of its realizations. Columns that the file does not name are numbered.
        """
        values, axes = self.features(family), self._adapter().feature_axes(family)
        if "n" not in axes:
            values, axes = values[..., None], axes + "n"
        if "T" in axes:
            time = axes.index("T")
            values, axes = values.mean(time), axes.replace("T", "")
        info = self.info
        if axes == "Nn":
            values = np.repeat(values[:, None], info.realizations, 1)
        if values.shape[:2] != (info.operators, info.realizations):
            raise DatasetError(
                f"{info.path}: features '{family}' are of {' x '.join(map(str, values.shape[:2]))} "
                f"trajectories; the file has {info.operators} x {info.realizations}."
            )
        names = self.feature_names(family) or tuple(str(i) for i in range(values.shape[-1]))
        return (
            tuple(name if name.startswith(f"{family}.") else f"{family}.{name}" for name in names),
            values.reshape(info.items, -1),
        )

    def verify(self) -> Verification:
        """Read everything once, and say what was judged. Raises DatasetError at the first fault.

        In other programs' files a feature without a value is NaN: those are counted. Ours has
        none.
        """
        for item in range(len(self)):
            self.initial([item])
            self.parameters([item])
            if self.info.frames:
                self.trajectories([item])
        undefined = {family: self._undefined(family) for family in self.info.features}
        return Verification(self.info, {f: found for f, found in undefined.items() if found[0]})

    def _undefined(self, family: str) -> tuple[int, int]:
        """How many of the stored features are not finite, and of how many."""
        values = self.features(family)
        if values.dtype.kind not in "fiu":
            return 0, values.size
        bad = ~np.isfinite(values)
        if bad.any() and not self._adapter().features_may_be_undefined:
            operator, realization, column = np.argwhere(bad)[0]
            raise DatasetError(
                f"{self.info.path}: features '{family}': {np.count_nonzero(bad)} of {bad.size} "
                f"values are not finite, the first is '{self.feature_names(family)[column]}' of "
                f"operator {operator}, realization {realization}. Generate the file again."
            )
        return int(np.count_nonzero(bad)), values.size

    def _require(self, family: str) -> None:
        if family not in self.info.features:
            held = ", ".join(self.info.features) or "none"
            raise DatasetError(
                f"{self.info.path}: features '{family}' are not stored in it; stored: {held}."
            )

    def _valid(self, items: Sequence[int]) -> list[int]:
        for item in items:
            if not 0 <= item < len(self):
                raise IndexError(f"item {item} is not in 0 .. {len(self) - 1}")
        return [int(item) for item in items]

    def _place(self, item: int) -> str:
        operator, realization = divmod(item, self.info.realizations)
        return f"item {item} (operator {operator}, realization {realization})"

    def _check(self, values: ndarray, item: int, steps: range) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            step, channel, *_ = np.argwhere(~finite)[0]
            raise DatasetError(
                f"{self.info.path}: {self._place(item)}: {np.count_nonzero(~finite)} values are "
                f"not finite, the first at frame {steps[step]}, channel "
                f"'{self.info.channel_names[channel]}'. Leave it out of the file or repair it."
            )

    def _adapter(self) -> Adapter:
        """This process's own: an HDF5 handle does not survive a fork, nor a pickle."""
        if self._open is None or self._process != os.getpid():
            path = self.info.path
            with naming(path, "structure"):
                opened = adapt(open_hdf5(path), path)
                found = opened.info(self.info.fingerprint)
            if found != self.info:
                raise DatasetError(f"{path}: replaced by another file since it was opened.")
            self._open, self._process = opened, os.getpid()
        return self._open

    def __reduce__(self) -> tuple[type["TrajectoryDataset"], tuple[DatasetInfo]]:
        return TrajectoryDataset, (self.info,)
