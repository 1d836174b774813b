"""What every ground truth is: sampled parameters and seeds in, trajectories out, bit for bit.

A domain is one family of operators, built from its frozen config. Everything it makes follows
from a parameter vector in the unit cube and a 64-bit seed per operator; both are stored with
the data, so any trajectory can be made again alone.

N or B operators, P parameters, Q conditioning entries, M realizations, T frames (frame 0 is the
initial condition), C channels, H x W grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt64
from torch import Tensor

from spinlock.config import Config
from spinlock.domains.parameters import ParameterSpace, Value


class DomainConfig(Config):
    """Base of every family's config, which also has a `kind` of its own."""

    @abstractmethod
    def build(self) -> "Domain":
        """The family with these numbers."""


class Domain(ABC):
    """A family of operators. Subclasses are final and say what `rollout` computes."""

    name: str
    channel_names: tuple[str, ...]
    realizations: int
    space: ParameterSpace

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """One name per axis of the unit cube."""
        return self.space.names

    @property
    def conditioning_names(self) -> tuple[str, ...]:
        """One name per entry of theta."""
        return self.space.conditioning_names

    def sample(self, count: int, seed: int) -> Float64[np.ndarray, "N P"]:
        """The first `count` points of a scrambled Sobol sequence, none of them skipped.

        A larger count from the same seed begins with the same points. Powers of two keep the
        balance of the sequence (Owen, arXiv:2008.08051). scipy scrambles by a random linear
        matrix and a digital shift.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        from scipy.stats import qmc  # half a second of every launch's start

        sobol = qmc.Sobol(len(self.space.names), scramble=True, rng=seed)
        points: np.ndarray = sobol.random_base2((count - 1).bit_length())
        return points[:count]

    def physical(self, unit: Float64[np.ndarray, "N P"]) -> list[dict[str, Value]]:
        """Each operator's parameter values by name."""
        return self.space.physical(unit)

    def conditioning(self, unit: Float64[np.ndarray, "N P"]) -> Float32[np.ndarray, "N Q"]:
        """Theta, what a model of this family is conditioned on; each entry in [0, 1]."""
        return self.space.conditioning(unit)

    @abstractmethod
    def initial(self, seeds: UInt64[np.ndarray, "B"], grid: int) -> Float[Tensor, "B C H W"]:
        """Initial conditions in float32, each a function of its own seed alone."""

    @abstractmethod
    def rollout(
        self,
        unit: Float64[np.ndarray, "B P"],
        seeds: UInt64[np.ndarray, "B"],
        initial: Float[Tensor, "B C H W"],
        frames: int,
        *,
        first: int = 0,
    ) -> Float[Tensor, "B M T C H W"]:
        """Trajectories in float32 whose frame 0 is `initial`.

        An operator's trajectory depends on its own row of `unit`, `seeds` and `initial` alone,
        to the last bit, and a longer one begins with the shorter one. `first` is the index of
        the batch's first operator in the data set: errors name operators by it.

        Raises GroundTruthError naming the operator, its parameters, the frame and the value
        when a state is not finite or runs away.
        """


def operator_seeds(seed: int, indices: Iterable[int]) -> UInt64[np.ndarray, "B"]:
    """A 64-bit seed per operator, a function of the data set's seed and the operator's index."""
    return np.array(
        [
            np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1, np.uint64)[0]
            for i in indices
        ],
        dtype=np.uint64,
    )
