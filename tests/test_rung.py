"""A rung keeps its order as trials come and go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinlock.search.hypervolume import greedy
from spinlock.search.rung import Rung
from spinlock.search.space import Objective

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
MODES = st.sampled_from(["min", "max"])


@given(values=VALUES, mode=MODES, factor=st.floats(1.01, 10))
def test_the_cut_is_numpys_percentile_of_the_rewards_to_the_last_bit(
    values: list[float], mode: str, factor: float
) -> None:
    goal = Objective.model_validate({"metric": "loss", "mode": mode})
    rung = Rung((goal,))
    for number, value in enumerate(values):
        rung.add(number, (value,))
    rewards = np.array(values) if mode == "max" else -np.array(values)
    expected = float(np.percentile(rewards, (1 - 1 / factor) * 100))
    assert rung.cut(factor) == goal.cost(-expected)


@given(values=VALUES, mode=MODES, gone=st.sets(st.integers(0, 50)), count=st.integers(0, 50))
def test_the_best_are_those_that_a_sort_of_what_is_left_puts_first(
    values: list[float], mode: str, gone: set[int], count: int
) -> None:
    goal = Objective.model_validate({"metric": "loss", "mode": mode})
    rung = Rung((goal,))
    for number, value in enumerate(values):
        rung.add(number, (value,))
    for number in gone:
        rung.discard(number)
    left = {number: (v,) for number, v in enumerate(values) if number not in gone}
    assert rung == left
    assert [*rung] == [*left]  # in order of arrival
    assert rung.best(count) == sorted(left, key=lambda n: (goal.cost(left[n][0]), n))[:count]


def test_of_several_objectives_the_best_add_most_to_the_hypervolume() -> None:
    goals = (Objective(metric="a"), Objective(metric="b", mode="max"))
    values = {number: (1.0 + number % 3, 5.0 - number % 4) for number in range(8)}
    rung = Rung(goals)
    for number, pair in values.items():
        rung.add(number, pair)
    rung.discard(3)
    del values[3]
    assert rung == values
    assert rung.best(4) == greedy(values, goals, 4)


def test_a_rung_without_trials_has_no_cut() -> None:
    rung = Rung((Objective(),))
    rung.add(0, (1.0,))
    rung.discard(0)
    with pytest.raises(ValueError, match="has no cut"):
        rung.cut(3.0)
