"""Guards judge one run by its own history and say why; they spare a run that just improved."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinlock.training.guards import (
    GUARDS,
    CommitClimb,
    Divergence,
    NonfiniteGradients,
)

losses = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


def history(metric: str, values: list[float]) -> list[dict[str, float]]:
    return [{metric: value} for value in values]


@pytest.mark.parametrize("guard", [CommitClimb(), Divergence()])
@given(values=losses)
def test_a_guard_never_stops_a_run_that_has_just_reached_its_best(guard, values) -> None:
    assert guard.check(history(guard.metric, [*values, min(values)])) is None


@pytest.mark.parametrize("kind", GUARDS)
def test_a_guard_is_silent_about_metrics_that_are_not_reported(kind: str) -> None:
    assert GUARDS[kind]().check([{"other": 1.0}] * 5) is None
    assert GUARDS[kind]().check([]) is None


@pytest.mark.parametrize("kind", GUARDS)
@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=12))
def test_a_guard_says_the_same_however_often_it_is_asked_and_never_nothing(kind, values) -> None:
    guard = GUARDS[kind]()
    first = guard.check(history(guard.metric, values))
    assert guard.check(history(guard.metric, values)) == first
    assert first is None or len(first) > 10


@given(values=losses, scale=st.sampled_from([1e-3, 8.0, 1e4]))
def test_a_relative_guard_does_not_depend_on_the_unit_of_the_loss(values, scale: float) -> None:
    guard = CommitClimb(factor=2.0)
    plain = guard.check(history("val/commit", values))
    scaled = guard.check(history("val/commit", [scale * value for value in values]))
    assert (plain is None) == (scaled is None) or math.isclose(values[-1], 2 * min(values))


def test_a_climb_above_twice_the_minimum_is_told_with_its_numbers() -> None:
    reason = CommitClimb(factor=2).check(history("val/commit", [0.4, 0.2, 0.3, 0.41]))
    assert reason == "val/commit climbed to 0.41, above 2 times its minimum of 0.2 at epoch 2"


def test_a_climb_that_stays_below_the_factor_goes_on() -> None:
    assert CommitClimb(factor=2).check(history("val/commit", [0.4, 0.2, 0.3, 0.39])) is None


def test_a_ceiling_stops_even_a_run_at_its_minimum_so_far() -> None:
    guard = CommitClimb(factor=None, ceiling=0.5, min_epochs=1)
    assert guard.check(history("val/commit", [0.6])) == "val/commit 0.6 is above the ceiling of 0.5"


def test_a_climb_guard_that_could_never_act_is_refused() -> None:
    with pytest.raises(ValueError, match="a factor, a ceiling, or both"):
        CommitClimb(factor=None)


def test_a_nan_in_between_is_no_minimum() -> None:
    assert CommitClimb().check(history("val/commit", [0.2, math.nan, 0.3])) is None
    assert CommitClimb().check(history("val/commit", [0.2, math.nan, 0.5])) is not None


@pytest.mark.parametrize(
    ("skipped", "tried", "consecutive", "reason"),
    [
        (1, 1, 1, None),
        (2, 4, 1, None),
        (3, 4, 1, "3 of 4 updates"),
        (3, 100, 3, "3 updates in a row"),
        (2, 100, 2, None),
    ],
)
def test_skipped_updates_end_an_epoch_by_share_or_by_run(
    skipped: int, tried: int, consecutive: int, reason: str | None
) -> None:
    guard = NonfiniteGradients(max_fraction=0.5, max_consecutive=3, min_updates=4)
    said = guard.check_updates(skipped=skipped, tried=tried, consecutive=consecutive)
    assert said is None if reason is None else said is not None and said.startswith(reason)
