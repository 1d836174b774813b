"""Files of the research prototype (dgabriele/spinlock), as its code writes them.

Two forms. `PrototypeAdapter`: initial fields, unit-cube parameters, features, and trajectories
only when they were asked of its writer, which its own command never did. `RolloutAdapter`: what
its `rollout/trajectory.py` writes, trajectories and per-frame metrics alone.

What such a file cannot give: its trajectories again (the operators' weights were seeded by
Python's salted string hash), nor physical parameters (the operators were built from other ranges
than those in its config). Its parameters stay unit-cube coordinates, with the config's names.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from spinlock.data.adapters.base import Adapter, selection
from spinlock.data.hdf5 import array, attribute, child, group, same_length, text
from spinlock.data.info import DatasetInfo
from spinlock.errors import DatasetError

# The prototype flattens its parameter space in this order, whatever the order in the config.
_SECTIONS = ("architecture", "stochastic", "operator", "evolution")
# Which categories of the summary registry stand in which dataset, in stored order. The registry's
# indices do not: it also counts operator_sensitivity, which is in the middle and never stored.
_CATEGORIES = {
    "temporal": ("spatial", "spectral", "cross_channel"),
    "summary/per_trajectory": ("temporal", "causality", "invariant_drift"),
}


class PrototypeAdapter(Adapter):
    """The prototype's dataset. Axis 1 of the initial fields is channels, as its writer means it."""

    signature = "groups inputs, parameters, metadata, features; perhaps outputs/fields"

    @classmethod
    def recognises(cls, file: h5py.File) -> bool:
        return any(name in file for name in ("inputs", "parameters", "outputs"))

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._path = path
        self._inputs = array(file, "inputs/fields", "NCHW", path)
        # The prototype's documentation names two datasets otherwise than its code.
        self._parameters = array(
            file, _either(file, "parameters/params", "parameters/vectors"), "NP", path
        )
        same_length(self._inputs, self._parameters, path)
        metadata = group(file, "metadata", path)
        if metadata is None:
            raise DatasetError(f"{path}: group 'metadata' is missing.")
        _refuse_mixed_grids(metadata, path)
        self._config = _json(metadata, "config", path)
        self._outputs = self._find_outputs(file)
        self._realizations = (
            _positive(metadata, "num_realizations", path)
            if self._outputs is None
            else self._outputs.shape[1]
        )
        self._features = self._find_features(file)
        self._summary = group(file, "features/summary", path)
        self._initial = group(file, "features/initial", path)
        self._names = self._parameter_names()

    def _find_outputs(self, file: h5py.File) -> h5py.Dataset | None:
        outer = group(file, "outputs", self._path)
        name = _either(file, "outputs/fields", "outputs/trajectories")
        if name not in file:
            if outer is not None and not np.any(outer.attrs.get("feature_only_mode", False)):
                child(file, name, self._path)  # says what is missing
            return None
        snapshot = child(file, name, self._path).ndim == 5  # written so when T = 1
        outputs = array(file, name, "NMCHW" if snapshot else "NMTCHW", self._path)
        same_length(self._inputs, outputs, self._path)
        if outputs.shape[-3:] != self._inputs.shape[1:]:
            raise DatasetError(
                f"{self._path}: '{name}' has shape {outputs.shape}, 'inputs/fields' "
                f"{self._inputs.shape}; channels and grid must agree."
            )
        return outputs

    def _find_features(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        found: dict[str, h5py.Dataset] = {}

        def visit(name: str, node: h5py.HLObject) -> None:
            if isinstance(node, h5py.Dataset) and "metadata" not in name.split("/"):
                same_length(self._inputs, node, self._path)
                found[name.removesuffix("/features")] = node

        stored = group(file, "features", self._path)
        if stored is not None:
            stored.visititems(visit)
        return found

    def info(self, fingerprint: str) -> DatasetInfo:
        operators, channels, height, width = self._inputs.shape
        simulation = _section(self._config, "simulation", self._path)
        return DatasetInfo(
            path=self._path,
            layout="prototype",
            domain=str(simulation.get("operator_type", "")),
            operators=operators,
            realizations=self._realizations,
            frames=self._frames(),
            channels=channels,
            height=height,
            width=width,
            channel_names=tuple(str(index) for index in range(channels)),
            parameter_names=self._names,
            parameter_kind="unit",
            features=tuple(sorted(self._features)),
            static_names=(),
            fingerprint=fingerprint,
        )

    def _frames(self) -> int:
        if self._outputs is None:
            return 0
        return 1 if self._outputs.ndim == 5 else int(self._outputs.shape[2])

    def _parameter_names(self) -> tuple[str, ...]:
        space = _section(self._config, "parameter_space", self._path)
        names = tuple(n for s in _SECTIONS for n in _section(space, s, self._path))
        if len(names) != self._parameters.shape[1]:
            raise DatasetError(
                f"{self._path}: {self._parameters.shape[1]} parameters are stored, but the config "
                f"in 'metadata' names {len(names)}: {', '.join(names)}."
            )
        return names

    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        assert self._outputs is not None
        where: tuple[int | slice, ...] = divmod(item, self._realizations)
        if self._outputs.ndim == 6:
            where = (*where, selection(frames))
        into[:] = self._outputs[where]

    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        into[:] = self._inputs[item // self._realizations]

    def parameters(self) -> Float32[ndarray, "N P"]:
        return np.asarray(self._parameters[:], dtype=np.float32)

    def features(self, family: str) -> ndarray:
        return np.asarray(self._features[family][()])

    def feature_axes(self, family: str) -> str:
        axes = {2: "Nn", 3: "NTn" if family == "temporal" else "NMn"}
        rank = self._features[family].ndim
        if rank not in axes:
            raise DatasetError(
                f"{self._path}: features '{family}' have {rank} axes; 2 or 3 can be read."
            )
        return axes[rank]

    def feature_names(self, family: str) -> tuple[str, ...]:
        """Rebuilt from the registries; empty where those do not account for every column."""
        names: list[str] = []
        if family in _CATEGORIES and self._summary is not None:
            registry = _json(self._summary, "feature_registry", self._path)
            for category in _CATEGORIES[family]:
                members = _section(registry, category, self._path)
                names += [f"{category}.{name}" for name in _ordered(members, self._path)]
        elif family.startswith("initial/") and self._initial is not None:
            entries = _json(self._initial, "feature_registry", self._path)
            places = {n: _section(entries, n, self._path).get("index") for n in entries}
            names = _ordered(places, self._path)
        return tuple(names) if len(names) == self._features[family].shape[-1] else ()


class RolloutAdapter(Adapter):
    """Root `trajectories [N, M, T, C, H, W]`; `metrics/<name> [N, M, T]` are its features."""

    signature = "dataset trajectories at the root"

    @classmethod
    def recognises(cls, file: h5py.File) -> bool:
        return "trajectories" in file

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._path = path
        self._fields = array(file, "trajectories", "NMTCHW", path)
        metrics = group(file, "metrics", path)
        names = () if metrics is None else tuple(metrics)
        self._metrics = {f"metrics/{name}": array(metrics, name, "NMT", path) for name in names}
        for metric in self._metrics.values():
            same_length(self._fields, metric, path)

    def info(self, fingerprint: str) -> DatasetInfo:
        operators, realizations, frames, channels, height, width = self._fields.shape
        return DatasetInfo(
            path=self._path,
            layout="prototype",
            domain="",
            operators=operators,
            realizations=realizations,
            frames=frames,
            channels=channels,
            height=height,
            width=width,
            channel_names=tuple(str(index) for index in range(channels)),
            parameter_names=(),
            parameter_kind="none",
            features=tuple(self._metrics),
            static_names=(),
            fingerprint=fingerprint,
        )

    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        into[:] = self._fields[(*divmod(item, self._fields.shape[1]), selection(frames))]

    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        self.fill(item, range(1), into[None])

    def parameters(self) -> Float32[ndarray, "N P"]:
        return np.empty((self._fields.shape[0], 0), dtype=np.float32)

    def features(self, family: str) -> ndarray:
        return np.asarray(self._metrics[family][:])

    def feature_axes(self, family: str) -> str:
        assert family in self._metrics
        return "NMT"

    def feature_names(self, family: str) -> tuple[str, ...]:
        assert family in self._metrics
        return ()  # the last axis is time


def _either(file: h5py.File, written: str, documented: str) -> str:
    return documented if documented in file and written not in file else written


def _refuse_mixed_grids(metadata: h5py.Group, path: Path) -> None:
    """Its writer pads such fields with zeros and misaligns parameters and features: no data."""
    if "grid_sizes" in metadata:
        sizes = np.unique(array(metadata, "grid_sizes", "N", path)[:])
        if len(sizes) > 1:
            raise DatasetError(
                f"{path}: 'metadata/grid_sizes' mixes {', '.join(str(n) for n in sizes)}. In such "
                "files parameters and features belong to different operators, and nothing tells "
                "which; generate one file for each grid size."
            )


def _json(node: h5py.HLObject, name: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text(node.attrs[name]))
    except (KeyError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: attribute '{name}' of '{node.name}' is missing or no JSON: {error}."
        ) from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: attribute '{name}' of '{node.name}' is no JSON object.")
    return content


def _section(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """An inner JSON object; absent and null both mean an empty one."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise DatasetError(f"{path}: '{name}' in its metadata is {found!r}; expected an object.")
    return found


def _ordered(places: dict[str, Any], path: Path) -> list[str]:
    """Names in the order of the places given with them."""
    for name, place in places.items():
        if not isinstance(place, int):
            raise DatasetError(f"{path}: the registry places feature '{name}' at {place!r}.")
    return sorted(places, key=places.__getitem__)


def _positive(node: h5py.HLObject, name: str, path: Path) -> int:
    value = attribute(node, name, path)
    if value < 1:
        raise DatasetError(f"{path}: attribute '{name}' of '{node.name}' is {value}; at least 1.")
    return value
