"""The greedy hypervolume subset, held against its definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinlock.search.hypervolume import greedy, placed, volume
from spinlock.search.pareto import fronts
from spinlock.search.space import Objective

GOALS = (Objective(metric="a"), Objective(metric="b", mode="max"), Objective(metric="c"))
values = st.integers(0, 6).map(float)
some = st.lists(st.tuples(values, values, values), min_size=1, max_size=9)


def test_the_volume_of_boxes_is_what_one_counts() -> None:
    assert volume(placed([(1.0, 1.0)], GOALS[:1] * 2)) == 1.0
    assert volume(np.zeros((0, 2))) == 0.0
    corners = np.array([[0.5, 0.0], [0.0, 0.5]])
    assert volume(corners) == pytest.approx(0.75)
    assert volume(corners, reference=2.0) == pytest.approx((4 - 0.25) / 4)
    assert volume(np.array([[0.25, 0.25], [0.1, 1.0]])) == pytest.approx(0.75**2)


def test_losses_are_placed_by_their_logarithm_and_what_is_to_be_large_as_it_is() -> None:
    points = [(1.0, 0.1), (10.0, 0.3), (100.0, 0.5)]
    found = placed(points, (GOALS[0], GOALS[1]), percentile=100.0)
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0.5], [1, 0]])
    assert placed([(0.0, 5.0), (4.0, 5.0)], GOALS[::2], percentile=100.0).tolist() == [
        [0, 0],
        [1, 0],
    ]


@settings(deadline=None)
@given(some)
def test_each_is_chosen_for_what_it_adds_to_those_before_it(
    points: list[tuple[float, ...]],
) -> None:
    keyed = dict(enumerate(points))
    order = greedy(keyed, GOALS, len(points))
    assert sorted(order) == sorted(keyed)
    costs = placed(points, GOALS)
    before = 0.0
    for count in range(1, len(order) + 1):
        adds = {i: volume(costs[[*order[: count - 1], i]]) - before for i in order[count - 1 :]}
        best = max(adds.values())
        if best <= 1e-9:
            return
        assert adds[order[count - 1]] == pytest.approx(best, abs=1e-9)
        before += best


@settings(deadline=None)
@given(some, st.integers(1, 9))
def test_the_first_few_are_the_beginning_of_all(
    points: list[tuple[float, ...]], first: int
) -> None:
    keyed = dict(enumerate(points))
    assert greedy(keyed, GOALS, first) == greedy(keyed, GOALS, len(points))[:first]


@settings(deadline=None)
@given(some)
def test_units_do_not_matter(points: list[tuple[float, ...]]) -> None:
    points = [(1 + a, b, 1 + c) for a, b, c in points]
    other = [(1024 * a, 4 * b - 7, c / 64) for a, b, c in points]
    found, again = (placed(each, GOALS) for each in (points, other))
    np.testing.assert_allclose(found, again, atol=1e-12)


def test_what_dominates_everything_comes_first_and_what_everything_dominates_last() -> None:
    points = {7: (3.0, 3.0, 3.0), 8: (1.0, 9.0, 1.0), 9: (2.0, 5.0, 2.0)}
    for order in itertools.permutations(points):
        assert greedy({key: points[key] for key in order}, GOALS, 3) == [8, 9, 7]


@settings(deadline=None)
@given(some)
def test_the_first_is_on_the_front(points: list[tuple[float, ...]]) -> None:
    keyed = dict(enumerate(points))
    if (placed(points, GOALS) < 1).all(axis=1).any():
        assert greedy(keyed, GOALS, 1)[0] in fronts(keyed, GOALS)[0]
