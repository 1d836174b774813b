"""Our own layout; see schema.py."""

from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from spinlock.data import schema
from spinlock.data.adapters.base import Adapter, selection
from spinlock.data.hdf5 import (
    array,
    attribute,
    child,
    group,
    names_of,
    same_length,
    scalar,
    text,
    texts,
)
from spinlock.data.info import DatasetInfo
from spinlock.errors import DatasetError


class SpinlockAdapter(Adapter):
    """Reads what `spinlock.data.generate` writes. `initial` is exact also in float16 files."""

    signature = "attribute format = 'spinlock'"
    features_may_be_undefined = False

    @classmethod
    def recognises(cls, file: h5py.File) -> bool:
        return text(file.attrs.get("format", "")) == schema.FORMAT

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._path = path
        version = attribute(file, "schema_version", path)
        if version != schema.SCHEMA_VERSION:
            raise DatasetError(
                f"{path}: written in schema version {version}; this version of Spinlock reads "
                f"{schema.SCHEMA_VERSION}. Generate the file again, or read it with the Spinlock "
                "that wrote it."
            )
        self._inputs = array(file, schema.INPUTS, "NCHW", path)
        self._outputs = array(file, schema.OUTPUTS, "NMTCHW", path)
        # An operator may have no parameters to condition on: P' = 0 is not an empty file.
        self._conditioning = child(file, schema.CONDITIONING, path)
        if self._conditioning.ndim != 2 or self._conditioning.dtype.kind != "f":
            raise DatasetError(
                f"{path}: '{schema.CONDITIONING}' has shape {self._conditioning.shape} of "
                f"{self._conditioning.dtype}; expected numbers [N, P]."
            )
        self._seeds = array(file, schema.SEEDS, "N", path)
        for rows in (self._outputs, self._conditioning, self._seeds):
            same_length(self._inputs, rows, path)
        if self._outputs.shape[3:] != self._inputs.shape[1:]:
            raise DatasetError(
                f"{path}: '{schema.OUTPUTS}' has shape {self._outputs.shape}, '{schema.INPUTS}' "
                f"{self._inputs.shape}; channels and grid must agree."
            )
        completed = scalar(child(file, schema.COMPLETED, path), path)
        if completed != self._inputs.shape[0]:
            raise DatasetError(
                f"{path}: unfinished: {completed} of {self._inputs.shape[0]} operators are "
                "written. Run the same generation again to complete it."
            )
        self._domain = text(file["metadata"].attrs.get("domain", ""))
        self._channels = names_of(self._inputs, "channel_names", 1, path)
        self._parameters = names_of(self._conditioning, "names", 1, path)
        self._features = self._find_features(file)

    def _find_features(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        stored = group(file, schema.FEATURES, self._path)
        found = {}
        for family in () if stored is None else stored:
            values = array(stored, family, "NMn", self._path)
            if values.shape[:2] != self._outputs.shape[:2]:
                raise DatasetError(
                    f"{self._path}: '{schema.FEATURES}/{family}' has shape {values.shape}; "
                    f"the trajectories have N, M = {self._outputs.shape[:2]}."
                )
            names_of(values, "names", 2, self._path)
            found[family] = values
        return found

    def info(self, fingerprint: str) -> DatasetInfo:
        operators, realizations, frames, channels, height, width = self._outputs.shape
        return DatasetInfo(
            path=self._path,
            layout="spinlock",
            domain=self._domain,
            operators=operators,
            realizations=realizations,
            frames=frames,
            channels=channels,
            height=height,
            width=width,
            channel_names=self._channels,
            parameter_names=self._parameters,
            parameter_kind="conditioning",
            features=tuple(self._features),
            static_names=(),
            fingerprint=fingerprint,
        )

    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        where = (*divmod(item, self._outputs.shape[1]), selection(frames))
        if self._outputs.dtype == np.float32:
            self._outputs.read_direct(into, where)
        else:  # numpy widens float16 2.7 times faster than HDF5 (18 against 51 ms for 25 MB)
            into[:] = self._outputs[where]

    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        self._inputs.read_direct(into, item // self._outputs.shape[1])

    def parameters(self) -> Float32[ndarray, "N P"]:
        return np.asarray(self._conditioning[:], dtype=np.float32)

    def features(self, family: str) -> ndarray:
        return np.asarray(self._features[family][:])

    def feature_names(self, family: str) -> tuple[str, ...]:
        return texts(self._features[family], "names", self._path)
