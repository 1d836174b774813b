"""Initial fields: families of random periodic fields on the unit square.

Lengths are fractions of the domain, wavenumbers k cycles per domain. A field is drawn in
float64 from its own numpy generator, so it depends on its seed and the grid, never on the
batch; `draw` picks the family by weight from the same seed.

C channels, H x W grid (square here).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from spinlock.config import Config
from spinlock.domains.random_fields import filtered_noise, gaussian_amplitude, wavenumbers

Array = NDArray[np.float64]
Field2D = Float64[np.ndarray, "H W"]
Fields = Float64[np.ndarray, "C H W"]
Shape = Literal["circle", "stripe", "blob"]
Pattern = Literal["waves", "lattice", "rings"]

INITIAL = 2  # the stream of an operator's seed; a network's weights and noise have 0 and 1


class InitialFamily(Config):
    """A distribution of initial fields; `weight` is its share in a mixture of families."""

    weight: PositiveFloat = 1.0

    @abstractmethod
    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        """One draw."""


class GaussianRandomField(InitialFamily):
    """Mean 0, covariance variance * exp(-r^2 / (2 length_scale^2)), channels independent.

    The covariance is that of the periodic field, a sum over the domain's images. Its mean over
    the domain is part of the draw: expect the variance over many fields, not within each one,
    once the length scale is a large part of the domain.
    """

    kind: Literal["gaussian_random_field"] = "gaussian_random_field"
    length_scale: PositiveFloat = 0.1
    variance: PositiveFloat = 1.0

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        amplitude = gaussian_amplitude(wavenumbers(grid), self.length_scale)
        return filtered_noise(rng, channels, amplitude, self.variance)


class Multiscale(InitialFamily):
    """A sum of independent Gaussian random fields; `shares` divide the variance among them."""

    kind: Literal["multiscale"] = "multiscale"
    length_scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.03, 0.1, 0.3)
    shares: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 1.0, 1.0)
    variance: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _one_share_each(self) -> "Multiscale":
        if len(self.shares) != len(self.length_scales):
            raise ValueError(f"{len(self.length_scales)} length scales, {len(self.shares)} shares")
        return self

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        total = np.zeros((channels, grid, grid))
        for length, share in zip(self.length_scales, self.shares, strict=True):
            amplitude = gaussian_amplitude(wavenumbers(grid), length)
            part = self.variance * share / sum(self.shares)
            total += filtered_noise(rng, channels, amplitude, part)
        return total


class PowerLaw(InitialFamily):
    """A Gaussian field whose power per mode falls as k^-exponent: structure at every scale.

    The mean over the domain is zero (k = 0 has no power law), the expected variance is as asked.
    """

    kind: Literal["power_law"] = "power_law"
    exponent: NonNegativeFloat = 3.0
    variance: PositiveFloat = 1.0

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        k = wavenumbers(grid)
        amplitude = np.where(k > 0, np.maximum(k, 1.0) ** (-self.exponent / 2), 0.0)
        return filtered_noise(rng, channels, amplitude, self.variance)


class Structured(InitialFamily):
    """`structures` shapes, each added to one random channel.

    A circle has radius 0.05 to 0.2 and amplitude 2 N(0, 1), a stripe pattern amplitude 1 and a
    wave vector of 1 to 6 cycles along an axis or a diagonal, a blob (Gaussian) width 0.03 to
    0.15 and amplitude 3 N(0, 1).
    """

    kind: Literal["structured"] = "structured"
    structures: PositiveInt = 5
    shapes: Annotated[tuple[Shape, ...], Field(min_length=1)] = ("circle", "stripe", "blob")

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        total = np.zeros((channels, grid, grid))
        for _ in range(self.structures):
            shape = self.shapes[rng.integers(len(self.shapes))]
            total[rng.integers(channels)] += _shape(shape, rng, grid)
        return total


class Localized(InitialFamily):
    """`blobs` Gaussian bumps per channel, their widths (standard deviations) within `widths`."""

    kind: Literal["localized"] = "localized"
    blobs: PositiveInt = 5
    widths: tuple[PositiveFloat, PositiveFloat] = (0.05, 0.15)
    amplitude: PositiveFloat = 2.0

    @model_validator(mode="after")
    def _ordered(self) -> "Localized":
        if self.widths[0] > self.widths[1]:
            raise ValueError(f"widths are [low, high], not {list(self.widths)}")
        return self

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        total = np.zeros((channels, grid, grid))
        for channel in total:
            for _ in range(self.blobs):
                width = rng.uniform(*self.widths)
                channel += self.amplitude * rng.standard_normal() * _bump(rng, grid, width)
        return total


class Composite(InitialFamily):
    """A regular pattern under a Gaussian random field, which has `disorder` of the variance.

    Waves are one sine, a lattice the product of two, rings a sine of the distance to a point;
    the pattern has `cycles` [low, high] per domain.
    """

    kind: Literal["composite"] = "composite"
    patterns: Annotated[tuple[Pattern, ...], Field(min_length=1)] = ("waves", "lattice", "rings")
    cycles: tuple[PositiveInt, PositiveInt] = (2, 6)
    length_scale: PositiveFloat = 0.05
    disorder: Annotated[float, Field(ge=0, le=1)] = 0.2
    variance: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Composite":
        if self.cycles[0] > self.cycles[1]:
            raise ValueError(f"cycles are [low, high], not {list(self.cycles)}")
        return self

    def fields(self, rng: np.random.Generator, channels: int, grid: int) -> Fields:
        amplitude = gaussian_amplitude(wavenumbers(grid), self.length_scale)
        total = filtered_noise(rng, channels, amplitude, self.variance * self.disorder)
        for channel in total:
            kind = self.patterns[rng.integers(len(self.patterns))]
            pattern = _pattern(
                kind, rng, grid, int(rng.integers(self.cycles[0], self.cycles[1] + 1))
            )
            channel += np.sqrt(self.variance * (1 - self.disorder)) * pattern
        return total


FAMILIES: dict[str, type[InitialFamily]] = {
    "gaussian_random_field": GaussianRandomField,
    "multiscale": Multiscale,
    "power_law": PowerLaw,
    "structured": Structured,
    "localized": Localized,
    "composite": Composite,
}

AnyInitial = Annotated[
    GaussianRandomField | Multiscale | PowerLaw | Structured | Localized | Composite,
    Field(discriminator="kind"),
]


def draw(
    families: Sequence[InitialFamily], seed: int, channels: int, grid: int
) -> Float32[np.ndarray, "C H W"]:
    """The initial field of one operator: a family by weight, then a field of it."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(INITIAL,)))
    weights = np.array([family.weight for family in families])
    family = families[rng.choice(len(families), p=weights / weights.sum())]
    return family.fields(rng, channels, grid).astype(np.float32)


def _coordinates(grid: int) -> tuple[Array, Array]:
    axis = np.arange(grid) / grid
    return axis[:, None], axis[None, :]


def _distance(rng: np.random.Generator, grid: int) -> Field2D:
    """Periodic distance of every cell to a random point."""
    y, x = _coordinates(grid)
    dy, dx = y - rng.random(), x - rng.random()
    distance: Array = np.hypot(dy - np.round(dy), dx - np.round(dx))
    return distance


def _bump(rng: np.random.Generator, grid: int, width: float) -> Field2D:
    bump: Array = np.exp(-(_distance(rng, grid) ** 2) / (2 * width**2))
    return bump


def _shape(shape: Shape, rng: np.random.Generator, grid: int) -> Field2D:
    match shape:
        case "circle":
            inside = _distance(rng, grid) <= rng.uniform(0.05, 0.2)
            return inside * (2 * rng.standard_normal())
        case "stripe":
            return _wave(rng, grid, int(rng.integers(1, 7)))
        case "blob":
            return 3 * rng.standard_normal() * _bump(rng, grid, rng.uniform(0.03, 0.15))


def _wave(rng: np.random.Generator, grid: int, cycles: int) -> Field2D:
    """A sine of amplitude 1 along an axis or a diagonal, at a random phase."""
    y, x = _coordinates(grid)
    along_y, along_x = ((0, 1), (1, 0), (1, 1), (1, -1))[rng.integers(4)]
    phase = cycles * (along_y * y + along_x * x) + rng.random()
    wave: Array = np.sin(2 * np.pi * phase)
    return wave


def _pattern(kind: Pattern, rng: np.random.Generator, grid: int, cycles: int) -> Field2D:
    """A pattern of mean 0 and variance 1 over the domain."""
    match kind:
        case "waves":
            field = _wave(rng, grid, cycles)
        case "lattice":
            y, x = _coordinates(grid)
            field = np.sin(2 * np.pi * (cycles * y + rng.random())) * np.sin(
                2 * np.pi * (cycles * x + rng.random())
            )
        case "rings":
            field = np.cos(2 * np.pi * cycles * _distance(rng, grid))
    pattern: Array = (field - field.mean()) / field.std()
    return pattern
