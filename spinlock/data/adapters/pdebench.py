"""PDEBench's 2-D layout with one group for each seed (Takamoto et al. 2022, arXiv:2210.07182).

Used there by 2D_diff-react and 2D_rdb: `<seed>/data [T, Y, X, C]`, `<seed>/grid/{x,y,t}`, and the
simulator's configuration as YAML text on the group. That text mixes physics with numerics and the
seed, and is the same for all groups but for the seed: no parameters are taken from it.
"""

from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from spinlock.data.adapters.base import Adapter, selection
from spinlock.data.hdf5 import array, text
from spinlock.data.info import DatasetInfo
from spinlock.errors import DatasetError


class PdebenchAdapter(Adapter):
    """Items are the groups in the order of their names."""

    signature = "groups that each hold a dataset data [T, Y, X, C]"

    @classmethod
    def recognises(cls, file: h5py.File) -> bool:
        return any(isinstance(node, h5py.Group) and "data" in node for node in file.values())

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._path = path
        self._data = [array(file, f"{name}/data", "TYXC", path) for name in sorted(file)]
        first = self._data[0]
        for other in self._data:
            if other.shape != first.shape:
                raise DatasetError(
                    f"{path}: '{other.name.lstrip('/')}' has shape {other.shape}, "
                    f"'{first.name.lstrip('/')}' {first.shape}; all groups must agree."
                )
        self._domain = _name(first.parent, path)

    def info(self, fingerprint: str) -> DatasetInfo:
        frames, height, width, channels = self._data[0].shape
        return DatasetInfo(
            path=self._path,
            layout="pdebench",
            domain=self._domain,
            operators=len(self._data),
            realizations=1,
            frames=frames,
            channels=channels,
            height=height,
            width=width,
            channel_names=tuple(str(index) for index in range(channels)),
            parameter_names=(),
            parameter_kind="none",
            features=(),
            static_names=(),
            fingerprint=fingerprint,
        )

    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        into[:] = np.moveaxis(self._data[item][selection(frames)], -1, 1)

    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        self.fill(item, range(1), into[None])

    def parameters(self) -> Float32[ndarray, "N P"]:
        return np.empty((len(self._data), 0), dtype=np.float32)

    def features(self, family: str) -> ndarray:
        raise KeyError(family)

    def feature_names(self, family: str) -> tuple[str, ...]:
        raise KeyError(family)


def _name(group: h5py.Group, path: Path) -> str:
    """The scenario's name in a group's configuration; empty when there is none."""
    try:
        config = YAML(typ="safe").load(text(group.attrs.get("config", "")))
    except YAMLError as error:
        raise DatasetError(
            f"{path}: attribute 'config' of '{group.name}' is not YAML: {error}."
        ) from None
    return str(config.get("name", "")) if isinstance(config, dict) else ""
