"""One searched setting: the values that it may take, and when it is searched."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from spinlock.config import Config

Scalar = bool | int | float | str


class Between(Config):
    """Numbers of at least `min` and at most `max`."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> "Between":
        if self.max is None and self.min is None:
            raise ValueError("give min, max, or both")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def holds(self, value: Scalar) -> bool:
        """Whether `value` is a number between the two."""
        if isinstance(value, bool | str):
            return False
        above = self.min is None or value >= self.min
        return above and (self.max is None or value <= self.max)


def _form(condition: Any) -> str | None:
    if isinstance(condition, Mapping | Between):
        return "between"
    if isinstance(condition, list | tuple):
        return "values"
    return "value" if isinstance(condition, Scalar) else None


Condition = Annotated[
    Annotated[Scalar, Tag("value")]
    | Annotated[tuple[Scalar, ...], Field(min_length=1), Tag("values")]
    | Annotated[Between, Tag("between")],
    Discriminator(
        _form,
        custom_error_type="condition",
        custom_error_message="expected a value, a list of values, or {min: ..., max: ...}",
    ),
]


class Parameter(Config):
    """One searched setting: exactly one of the four, and `when` it is searched.

    `when` names other searched settings, each with what it must be; without it the setting is
    searched in every trial.
    """

    log_uniform: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    int_uniform: tuple[int, int] | None = None
    choice: tuple[Scalar, ...] | None = None
    when: dict[str, Condition] | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Parameter":
        given = [name for name, value in self if name != "when" and value is not None]
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

    def active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether it is searched beside `values`; a setting without one is not searched itself."""
        return all(
            parent in values and keeps(values[parent], condition)
            for parent, condition in (self.when or {}).items()
        )

    def keeping(self, conditions: Sequence[Condition]) -> Scalar | None:
        """A value that keeps all `conditions`, an extreme where one does; None if none can."""
        named = [value for condition in conditions for value in self._ends(condition)]
        return next(
            (
                value
                for value in (*self.extremes, *named)
                if self.holds(value) and all(keeps(value, each) for each in conditions)
            ),
            None,
        )

    def _ends(self, condition: Condition) -> tuple[Scalar, ...]:
        """The values that a condition names; of a bound, the last inside it."""
        if not isinstance(condition, Between):
            return condition if isinstance(condition, tuple) else (condition,)
        low, high = condition.min, condition.max
        if self.int_uniform is not None:
            low = None if low is None else math.ceil(low)
            high = None if high is None else math.floor(high)
        return tuple(end for end in (low, high) if end is not None)

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


def keeps(value: Scalar, condition: Condition) -> bool:
    """Whether a setting of this value keeps the condition on it; true is not 1."""
    if isinstance(condition, Between):
        return condition.holds(value)
    allowed = condition if isinstance(condition, tuple) else (condition,)
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in allowed)
