"""Better, best and front: orders that hold for any measured points."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinlock.search.pareto import as_good, best_epoch, fronts
from spinlock.search.space import Objective

unhurried = settings(deadline=None)  # other processes take the processor at times
TWO = (Objective(metric="a", mode="min"), Objective(metric="b", mode="max"))
points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


def history(values, start: int = 1, step: int = 1) -> dict[int, dict[str, float]]:
    return {start + step * i: {"a": float(a), "b": float(b)} for i, (a, b) in enumerate(values)}


def dominates(a, b) -> bool:
    return as_good(a, b, TWO) and not as_good(b, a, TWO)


@unhurried
@given(points)
def test_nothing_dominates_a_front_and_something_dominates_each_other_point(values) -> None:
    named = {i: (float(a), float(b)) for i, (a, b) in enumerate(values)}
    layers = fronts(named, TWO)
    assert sorted(number for layer in layers for number in layer) == list(named)
    for upper, lower in pairwise(layers):
        assert all(any(dominates(named[u], named[n]) for u in upper) for n in lower)
    for layer in layers:
        assert not any(dominates(named[m], named[n]) for m in layer for n in layer)


@unhurried
@given(points)
def test_with_one_objective_the_layers_are_the_order_of_the_values(values) -> None:
    named = {i: (float(a),) for i, (a, _) in enumerate(values)}
    layers = fronts(named, TWO[:1])
    assert [named[layer[0]][0] for layer in layers] == sorted({a for (a,) in named.values()})


@unhurried
@given(points, st.integers(1, 5), st.integers(1, 7))
def test_with_one_objective_a_run_stands_for_its_best_epoch_the_first_of_equals(
    values, start, step
) -> None:
    run = history(values, start, step)
    for objective in TWO:
        series = [metrics[objective.metric] for metrics in run.values()]
        best = min(series) if objective.mode == "min" else max(series)
        epochs = [epoch for epoch, m in run.items() if m[objective.metric] == best]
        assert best_epoch(run, [objective]) == (epochs[0], (best,))


@unhurried
@given(points)
def test_no_epoch_of_a_run_dominates_the_one_it_stands_for(values) -> None:
    run = history(values)
    at = best_epoch(run, TWO)
    assert at is not None
    assert not any(dominates((m["a"], m["b"]), at[1]) for m in run.values())


@unhurried
@given(points, points)
def test_what_a_run_stands_for_is_the_newest_epoch_or_what_it_was_before(values, more) -> None:
    """So a run that keeps this epoch and its newest never lacks the one that it will stand for."""
    before = best_epoch(history(values), TWO)
    after = best_epoch(history([*values, more[0]]), TWO)
    assert after in (before, (len(values) + 1, tuple(map(float, more[0]))))


@pytest.mark.parametrize("sick", [math.nan, math.inf, -math.inf])
def test_an_epoch_that_is_not_finite_in_any_objective_stands_for_nothing(sick: float) -> None:
    run = {1: {"a": 1.0, "b": sick}, 2: {"a": 2.0}, 3: {"a": sick, "b": 1.0}}
    assert best_epoch(run, TWO) is None
    run[4] = {"a": 9.0, "b": 0.0}
    assert best_epoch(run, TWO) == (4, (9.0, 0.0))
