"""One searched setting: the values that it may take."""

import math

import numpy as np
from pydantic import model_validator

from spinlock.config import Config

Scalar = bool | int | float | str


class Parameter(Config):
    """One searched setting: exactly one of the four."""

    log_uniform: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    int_uniform: tuple[int, int] | None = None
    choice: tuple[Scalar, ...] | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Parameter":
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of log_uniform, uniform, int_uniform or choice, "
                f"found {' and '.join(given) or 'none'}"
            )
        if self.choice is not None:
            if not self.choice or len(set(map(repr, self.choice))) != len(self.choice):
                raise ValueError("choice needs at least one value, and each value once")
            return self
        low, high = self.range
        if not low < high:
            raise ValueError(f"the lower end {low:g} must be below the upper end {high:g}")
        if self.log_uniform is not None and low <= 0:
            raise ValueError(f"a log scale starts above 0, not at {low:g}")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The ends of a numeric range."""
        ends = self.log_uniform or self.uniform or self.int_uniform
        if ends is None:
            raise TypeError("a choice has no range")
        return float(ends[0]), float(ends[1])

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """The ends of a range, or every choice."""
        return self.choice or self.int_uniform or self.range

    def holds(self, value: Scalar) -> bool:
        """Whether `value` can be suggested."""
        if self.choice is not None:
            return any(value == c and type(value) is type(c) for c in self.choice)
        if isinstance(value, bool | str) or (self.int_uniform and value != int(value)):
            return False
        return self.range[0] <= value <= self.range[1]

    def at(self, share: float) -> Scalar:
        """The value that a `share` in [0, 1) of an uninformed searcher's draws lie below."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.range
        if self.int_uniform is not None:
            return int(low) + int(share * (int(high) - int(low) + 1))
        if self.log_uniform is not None:
            value = math.exp(math.log(low) + share * math.log(high / low))
        else:
            value = low + share * (high - low)
        return min(high, max(low, value))  # rounding may step over either end

    def share(self, value: Scalar) -> float:
        """The share in [0, 1] at which `value` lies; of a choice or a whole number its middle."""
        if self.choice is not None:
            return (self.choice.index(value) + 0.5) / len(self.choice)
        low, high = self.range
        at = float(value)
        if self.int_uniform is not None:
            return (at - low + 0.5) / (high - low + 1)
        if self.log_uniform is not None:
            return math.log(at / low) / math.log(high / low)
        return (at - low) / (high - low)

    def ladder(self, steps: int) -> tuple[Scalar, ...]:
        """Every choice, or `steps` values from end to end of a range, even on its scale."""
        if self.choice is not None:
            return self.choice
        low, high = self.range
        space = np.geomspace if self.log_uniform is not None else np.linspace
        values = space(low, high, steps).clip(low, high)
        if self.int_uniform is not None:
            return tuple(dict.fromkeys(int(value) for value in values.round()))
        return tuple(float(value) for value in values)
