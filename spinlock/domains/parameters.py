"""Parameter kinds of an operator family, and the map from the unit cube to their values.

A family's parameters are the axes of a unit cube `[N, P]` (float64, in [0, 1]), which is what
Sobol samples and what a data file stores. From it follow the physical values that build the
operator, and theta `[N, Q]`, what a model is conditioned on: numbers scaled to [0, 1] on their
own (log) scale, choices one-hot, parameters with one possible value left out.

N operators, P parameters, Q conditioning entries.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from spinlock.config import Config
from spinlock.errors import GroundTruthError

Value = float | int | str | bool
T = TypeVar("T", bound=str | int)


class Parameter(Config):
    """One axis of a family: how a coordinate in [0, 1] becomes a value and part of theta."""

    @abstractmethod
    def value(self, u: float) -> Value:
        """The physical value at the coordinate `u`."""

    @abstractmethod
    def labels(self, name: str) -> tuple[str, ...]:
        """Names of this parameter's entries of theta; none if it is constant."""

    @abstractmethod
    def condition(self, u: float) -> list[float]:
        """This parameter's entries of theta, each in [0, 1], as many as `labels`."""


class Continuous(Parameter):
    """A number spread evenly over [low, high]."""

    kind: Literal["continuous"] = "continuous"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Continuous":
        _check_order(self.low, self.high)
        return self

    def value(self, u: float) -> float:
        # The plain sum can pass `high` by one rounding.
        return min(self.low + u * (self.high - self.low), self.high)

    def labels(self, name: str) -> tuple[str, ...]:
        return (name,) if self.low < self.high else ()

    def condition(self, u: float) -> list[float]:
        return [u] if self.low < self.high else []


class Log(Parameter):
    """A positive number whose logarithm is spread evenly over [log low, log high]."""

    kind: Literal["log"] = "log"
    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> "Log":
        _check_order(self.low, self.high)
        return self

    def value(self, u: float) -> float:
        return min(
            max(self.low * math.exp(u * math.log(self.high / self.low)), self.low), self.high
        )

    def labels(self, name: str) -> tuple[str, ...]:
        return (name,) if self.low < self.high else ()

    def condition(self, u: float) -> list[float]:
        return [u] if self.low < self.high else []


class Integer(Parameter):
    """One of low, low + step, .. up to high, each equally likely."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int
    step: PositiveInt = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Integer":
        if (self.high - self.low) % self.step:
            raise ValueError(f"high {self.high} is not low {self.low} plus steps of {self.step}")
        _check_order(self.low, self.high)
        return self

    def value(self, u: float) -> int:
        count = (self.high - self.low) // self.step + 1
        return self.low + self.step * min(int(u * count), count - 1)

    def labels(self, name: str) -> tuple[str, ...]:
        return (name,) if self.low < self.high else ()

    def condition(self, u: float) -> list[float]:
        if self.low == self.high:
            return []
        return [(self.value(u) - self.low) / (self.high - self.low)]


class Choice(Parameter, Generic[T]):
    """One of `values`, equally likely or in proportion to `weights`."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[T, ...], Field(min_length=1)]
    weights: tuple[PositiveFloat, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Choice[T]":
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"the values {list(self.values)} are not all different")
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values with {len(self.weights)} weights")
        return self

    def value(self, u: float) -> T:
        return self.values[self._index(u)]

    def labels(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name}={value}" for value in self.values) if len(self.values) > 1 else ()

    def condition(self, u: float) -> list[float]:
        if len(self.values) == 1:
            return []
        return [float(index == self._index(u)) for index in range(len(self.values))]

    def _index(self, u: float) -> int:
        weights = np.ones(len(self.values)) if self.weights is None else np.array(self.weights)
        bounds = np.cumsum(weights / weights.sum())
        return min(int(np.searchsorted(bounds, u, side="right")), len(self.values) - 1)


class Boolean(Parameter):
    """False below one half of the axis, true above."""

    kind: Literal["boolean"] = "boolean"

    def value(self, u: float) -> bool:
        return u >= 0.5

    def labels(self, name: str) -> tuple[str, ...]:
        return (name,)

    def condition(self, u: float) -> list[float]:
        return [float(self.value(u))]


@dataclass(frozen=True)
class ParameterSpace:
    """Named parameters in the order of the unit cube's axes."""

    parameters: Mapping[str, Parameter]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    @property
    def conditioning_names(self) -> tuple[str, ...]:
        return tuple(
            label for name, parameter in self.parameters.items() for label in parameter.labels(name)
        )

    def physical(self, unit: Float64[np.ndarray, "N P"]) -> list[dict[str, Value]]:
        """Each operator's values by name. Raises GroundTruthError outside the unit cube."""
        self._check(unit)
        return [
            {name: p.value(float(u)) for (name, p), u in zip(self._items(), row, strict=True)}
            for row in unit
        ]

    def conditioning(self, unit: Float64[np.ndarray, "N P"]) -> Float32[np.ndarray, "N Q"]:
        """Theta. Raises GroundTruthError outside the unit cube."""
        self._check(unit)
        theta = np.empty((len(unit), len(self.conditioning_names)), np.float32)
        for index, row in enumerate(unit):
            theta[index] = [
                entry
                for (_, p), u in zip(self._items(), row, strict=True)
                for entry in p.condition(float(u))
            ]
        return theta

    def _items(self) -> list[tuple[str, Parameter]]:
        return list(self.parameters.items())

    def _check(self, unit: NDArray[np.float64]) -> None:
        if unit.ndim != 2 or unit.shape[1] != len(self.parameters):
            raise GroundTruthError(
                f"Parameter vectors of shape {list(unit.shape)}: this family has "
                f"{len(self.parameters)} axes ({', '.join(self.names)})."
            )
        outside = np.argwhere(~((unit >= 0) & (unit <= 1)))
        if len(outside):
            row, axis = outside[0]
            raise GroundTruthError(
                f"Operator {row}: {self.names[axis]} is at {unit[row, axis]} of its axis, "
                "outside [0, 1]. Parameter vectors are stored in the unit cube, not as values."
            )


def _check_order(low: float | int, high: float | int) -> None:
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
