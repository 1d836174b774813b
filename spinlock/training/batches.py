"""Items split by operator, and their windows ready to train on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.data import DatasetInfo, TrajectoryDataset
from spinlock.errors import TrainingError
from spinlock.training.config import DataConfig

CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Split:
    """Item numbers to train on and to validate on; no operator is on both sides."""

    train: list[int]
    validation: list[int]


def split(info: DatasetInfo, config: DataConfig, seed: int) -> Split:
    """A seeded split of the file's operators.

    Raises TrainingError if a side would be empty, or the file holds less than is asked for.
    """
    operators = info.operators if config.operators is None else config.operators
    if operators > info.operators:
        raise TrainingError(
            f"{info.path}: data.operators asks for {operators} and the file holds "
            f"{info.operators}. Lower data.operators or leave it out for all."
        )
    realizations = info.realizations if config.realizations is None else config.realizations
    if realizations > info.realizations:
        raise TrainingError(
            f"{info.path}: data.realizations asks for {realizations} and the file holds "
            f"{info.realizations} of each operator. Lower data.realizations, or leave it out for "
            "all."
        )
    held_out = max(1, round(operators * config.validation_fraction))
    if held_out >= operators:
        raise TrainingError(
            f"{info.path}: {operators} operators cannot be split with validation_fraction "
            f"{config.validation_fraction}: both sides need one. Give more data, or another split."
        )
    order = np.random.default_rng([seed, 0x5B117]).permutation(operators).tolist()
    return Split(
        train=_items(sorted(order[held_out:]), info.realizations, realizations),
        validation=_items(sorted(order[:held_out]), info.realizations, realizations),
    )


def _items(operators: Sequence[int], held: int, taken: int) -> list[int]:
    """The first `taken` of each operator's `held` realizations."""
    return [op * held + m for op in operators for m in range(taken)]


@dataclass(frozen=True)
class Batch:
    """Initial conditions, conditioning parameters, and the true frames of the window."""

    initial: Float[Tensor, "B C H W"]
    parameters: Float[Tensor, "B P"]
    target: Float[Tensor, "B w C H W"]


class Windows:
    """Batches of the last `window` of `timesteps` frames, from memory when they fit there.

    Only the initial frame and the supervised frames are ever read. Up to CACHE_BYTES they are
    kept, so that an epoch does not decompress the file again.
    """

    def __init__(
        self, dataset: TrajectoryDataset, items: Sequence[int], timesteps: int, window: int
    ) -> None:
        self._dataset = dataset
        self._frames = slice(timesteps + 1 - window, timesteps + 1)
        info = dataset.info
        frame_bytes = 4 * info.channels * info.height * info.width
        fits = len(items) * (window + 1) * frame_bytes <= CACHE_BYTES
        self._position = {item: index for index, item in enumerate(items)} if fits else {}
        self._cached = self._read(items) if fits else None

    def batch(self, items: Sequence[int], device: torch.device) -> Batch:
        """The batch of `items`, in their order, on `device`."""
        if self._cached is None:
            held = self._read(items)
        else:
            rows = [self._position[item] for item in items]
            whole = self._cached
            held = Batch(whole.initial[rows], whole.parameters[rows], whole.target[rows])
        return Batch(held.initial.to(device), held.parameters.to(device), held.target.to(device))

    def _read(self, items: Sequence[int]) -> Batch:
        return Batch(
            self._dataset.initial(items),
            self._dataset.parameters(items),
            self._dataset.trajectories(items, self._frames),
        )
