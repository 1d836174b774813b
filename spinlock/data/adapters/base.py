"""What an adapter owes: facts, and numbers exactly as the file has them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import h5py
from jaxtyping import Float32
from numpy import ndarray

from spinlock.data.info import DatasetInfo


class Adapter(ABC):
    """Reads one layout from an open file.

    The constructor checks everything that can be checked without reading fields, and raises
    DatasetError. Numbers are given as stored, finite or not: the reader checks them.
    """

    signature: ClassVar[str]
    """The structure by which the layout is recognised, in words."""

    features_may_be_undefined: ClassVar[bool] = True
    """Whether a feature may be NaN in a sound file: other programs store it so."""

    @classmethod
    @abstractmethod
    def recognises(cls, file: h5py.File) -> bool:
        """Whether `file` is meant to be of this layout, be it complete or not."""

    @abstractmethod
    def __init__(self, file: h5py.File, path: Path) -> None: ...

    @abstractmethod
    def info(self, fingerprint: str) -> DatasetInfo:
        """The facts of the file."""

    @abstractmethod
    def fill(self, item: int, frames: range, into: Float32[ndarray, "T C H W"]) -> None:
        """Read the asked frames of one trajectory; called only when trajectories are stored."""

    @abstractmethod
    def fill_initial(self, item: int, into: Float32[ndarray, "C H W"]) -> None:
        """Read the initial condition of one trajectory."""

    @abstractmethod
    def parameters(self) -> Float32[ndarray, "N P"]:
        """One row for each operator."""

    @abstractmethod
    def features(self, family: str) -> ndarray:
        """The stored features of a family that `info` lists."""

    def feature_axes(self, family: str) -> str:
        """A letter for each axis of `features(family)`: N, M, T, and n for the columns."""
        assert family
        return "NMn"

    @abstractmethod
    def feature_names(self, family: str) -> tuple[str, ...]:
        """Names along the last axis of `features(family)`; empty when the file has none."""


def selection(frames: range) -> slice:
    """`frames`, an ascending range, as the slice that h5py reads without extra copies."""
    return slice(frames.start, frames.stop, frames.step)
