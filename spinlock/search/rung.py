"""A rung: the compared values of the trials that have come to it."""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

from typing_extensions import override

from spinlock.search.hypervolume import greedy
from spinlock.search.pareto import Scores
from spinlock.search.space import Objective


class Rung(Mapping[int, Scores]):
    """Values by trial, in order of arrival; of one objective also kept in order of worth.

    A rung is asked after every epoch, and of thousands of trials it is not sorted anew each time.
    """

    def __init__(self, goals: tuple[Objective, ...]) -> None:
        self._goals = goals
        self._values: dict[int, Scores] = {}
        self._costs: list[tuple[float, int]] = []  # of one objective, the best first

    @override
    def __getitem__(self, number: int) -> Scores:
        return self._values[number]

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    @override
    def __len__(self) -> int:
        return len(self._values)

    def add(self, number: int, values: Scores) -> None:
        """A trial has come, which it does once."""
        self._values[number] = values
        if len(self._goals) == 1:
            insort(self._costs, self._cost(number))

    def discard(self, number: int) -> None:
        """It counts no longer, if it ever came."""
        if number not in self._values:
            return
        if len(self._goals) == 1:
            del self._costs[bisect_left(self._costs, self._cost(number))]
        del self._values[number]

    def best(self, count: int) -> list[int]:
        """The `count` best trials, the best first; of equals the first.

        Of several objectives, those that add most to the hypervolume.
        """
        if len(self._goals) > 1:
            return greedy(self, self._goals, count)
        return [number for _, number in self._costs[:count]]

    def cut(self, factor: float) -> float:
        """What a value must reach to be among the best 1/`factor`, of one objective (ASHA).

        Of n rewards r_0 <= ... <= r_{n-1}, larger being better, it is the percentile
        p = 100 (1 - 1/`factor`) with linear interpolation, to the last bit that of numpy and so of
        Ray's ASHA. Raises ValueError for a rung to which no trial has come.
        """
        if not self._costs:
            raise ValueError("a rung to which no trial has come has no cut")
        (goal,), last = self._goals, len(self._costs) - 1
        at = last * ((1 - 1 / factor) * 100 / 100)
        below = math.floor(at)
        low, high = -self._costs[last - below][0], -self._costs[last - min(below + 1, last)][0]
        share, step = at - below, high - low
        reward = low + step * share if share < 0.5 else high - step * (1 - share)
        return goal.cost(-reward)

    def _cost(self, number: int) -> tuple[float, int]:
        return self._goals[0].cost(self._values[number][0]), number
