"""Guards judge one run by its own history and say why; they spare a run that just improved."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from spinlock.training.guards import (
    GUARDS,
    Breach,
    CodebookCollapse,
    CommitClimb,
    CommitDrift,
    Divergence,
    Guard,
    History,
    NonfiniteGradients,
    Plateau,
)

unhurried = settings(deadline=None)  # other processes take the processor at times
# For each kind: it with few conditions, what its metrics do in a run that it stops, and whether
# it judges ratios. Metrics stand in the order of `watched`.
TABLE: dict[str, tuple[Guard, list[tuple[float, ...]], bool]] = {
    "commit_climb": (CommitClimb(), [(0.4,), (0.2,), (0.41,)], True),
    "commit_drift": (
        CommitDrift(min_epochs=2),
        [(0.1, 0.5), (0.2, 0.4), (0.11, 0.4), (0.16, 0.45)],
        True,
    ),
    "codebook_collapse": (
        CodebookCollapse(floor=0.2, patience=2, min_epochs=2),
        [(0.6,), (0.3,), (0.19,), (0.18,)],
        False,
    ),
    "divergence": (Divergence(), [(0.4,), (0.2,), (0.61,)], True),
    "plateau": (
        Plateau(patience=2, improvement=0.1, min_epochs=3),
        [(0.4,), (0.3,), (0.29,), (0.28,)],
        True,
    ),
}
BEST = {"quality/utilization": max}  # the others are losses, best when small
every_guard = pytest.mark.parametrize("kind", GUARDS)


def history(*names: str, values: list[tuple[float, ...]], first: int = 1, step: int = 1) -> History:
    rows = [dict(zip(names, row, strict=True)) for row in values]
    return {first + step * i: row for i, row in enumerate(rows)}


def one(metric: str, values: list[float]) -> History:
    return history(metric, values=[(value,) for value in values])


def rows(guard: Guard):
    """Any finite run of this guard's metrics."""
    width = len(guard.watched)
    return st.lists(st.tuples(*[st.floats(1e-6, 1e6)] * width), min_size=1, max_size=20)


def test_every_guard_has_its_row_in_the_table() -> None:
    assert TABLE.keys() == GUARDS.keys()


@every_guard
def test_a_guard_stops_the_run_that_it_is_for_at_the_last_epoch_and_with_numbers(kind) -> None:
    guard, run, _ = TABLE[kind]
    for count in range(1, len(run)):
        assert guard.check(history(*guard.watched, values=run[:count])) is None
    found = guard.check(history(*guard.watched, values=run))
    assert found is not None
    assert all(metric in found.sentence for metric in guard.watched)
    assert (found.metric, found.value) == (guard.watched[0], run[-1][0])
    assert f"{found.value:.4g}" in found.sentence
    assert (found.value < found.limit) == (BEST.get(found.metric) is max)


@every_guard
@unhurried
@given(data=st.data())
def test_a_guard_never_stops_a_run_that_has_just_reached_its_best(kind, data) -> None:
    guard, _, _ = TABLE[kind]
    if kind == "plateau":  # a new best may be next to no progress
        return
    run = data.draw(rows(guard))
    best = tuple(
        max(column) * 1.01 if BEST.get(metric) is max else min(column) * 0.99
        for metric, column in zip(guard.watched, zip(*run, strict=True), strict=True)
    )
    assert guard.check(history(*guard.watched, values=[*run, best])) is None


@every_guard
def test_a_guard_is_silent_about_metrics_that_are_not_reported(kind) -> None:
    guard, run, _ = TABLE[kind]
    assert guard.check({}) is None
    assert guard.check({epoch: {"other": 1.0} for epoch in range(1, 9)}) is None
    sick = dict(history(*guard.watched, values=run))
    assert guard.check(sick | {len(run) + 1: {"other": 1.0}}) is None


@every_guard
@unhurried
@given(data=st.data())
def test_a_guard_says_the_same_however_often_it_is_asked_and_never_nothing(kind, data) -> None:
    guard, _, _ = TABLE[kind]
    any_float = st.floats(allow_nan=True, allow_infinity=True)
    row = st.tuples(*[any_float] * len(guard.watched))
    run = history(*guard.watched, values=data.draw(st.lists(row, min_size=1, max_size=12)))
    first = guard.check(run)
    assert guard.check(dict(run)) == first
    assert first is None or len(first.sentence) > 10


@every_guard
@unhurried
@given(data=st.data(), first=st.integers(1, 5), step=st.integers(1, 7))
def test_a_guard_judges_reports_however_many_epochs_lie_between_them(kind, data, first, step):
    """Only `min_epochs` and the epochs it names count epochs; what was reported decides."""
    guard = TABLE[kind][0].model_copy(update={"min_epochs": 1})
    values = data.draw(rows(guard))
    dense = guard.check(history(*guard.watched, values=values))
    sparse = guard.check(history(*guard.watched, values=values, first=first, step=step))
    assert (dense is None) == (sparse is None)


@every_guard
def test_a_guard_waits_for_its_first_epochs_by_their_number(kind) -> None:
    guard, run, _ = TABLE[kind]
    patient = guard.model_copy(update={"min_epochs": 20})
    assert patient.check(history(*guard.watched, values=run)) is None
    last = 20 - 5 * (len(run) - 1)
    late = history(*guard.watched, values=run, first=last, step=5)
    assert max(late) == 20
    assert patient.check(late) is not None


@every_guard
@unhurried
@given(scale=st.sampled_from([2.0**-9, 8.0, 2.0**14]), data=st.data())
def test_a_relative_guard_does_not_depend_on_the_unit_of_what_it_watches(kind, scale, data) -> None:
    guard, _, relative = TABLE[kind]
    if not relative:
        return
    run = data.draw(rows(guard))
    plain = guard.check(history(*guard.watched, values=run))
    scaled = [tuple(scale * value for value in row) for row in run]
    assert (plain is None) == (guard.check(history(*guard.watched, values=scaled)) is None)


@every_guard
def test_a_guard_survives_its_own_json(kind) -> None:
    guard, _, _ = TABLE[kind]
    assert guard.kind == kind
    assert TypeAdapter(Guard).validate_json(guard.model_dump_json()) == guard


@pytest.mark.parametrize(
    ("patience", "values", "stopped"),
    [
        (None, [1.0, 0.97, 0.96, 0.96], True),  # never left the level of its first report
        (None, [1.0, 0.94, 0.94, 0.94], False),
        (2, [1.0, 0.5, 0.49, 0.49], True),
        (2, [1.0, 0.5, 0.49, 0.4], False),
        (2, [1.0, 1.0, 1.0, 1.0], True),
        (4, [1.0, 1.0, 1.0, 1.0], False),  # not so many reports yet
    ],
)
def test_a_plateau_is_little_progress_since_so_many_reports(patience, values, stopped) -> None:
    guard = Plateau(patience=patience, improvement=0.05, min_epochs=2)
    assert (guard.check(one("val/traj", values)) is not None) == stopped


def test_a_plateau_without_improvement_is_no_improvement_at_all() -> None:
    guard = Plateau(improvement=0.0, min_epochs=2)
    assert guard.check(one("val/traj", [1.0, 1.0])) is not None
    assert guard.check(one("val/traj", [1.0, 0.999])) is None


def test_a_climb_above_twice_the_minimum_is_told_with_its_numbers() -> None:
    found = CommitClimb(factor=2).check(one("val/commit", [0.4, 0.2, 0.3, 0.41]))
    sentence = "val/commit climbed to 0.41, above 2 times its minimum of 0.2 at epoch 2"
    assert found == Breach(sentence, "val/commit", value=0.41, limit=0.4)


def test_a_sentence_names_the_true_epoch_of_a_run_that_reports_every_fifth() -> None:
    run = history("val/commit", values=[(0.4,), (0.2,), (0.3,), (0.41,)], first=5, step=5)
    found = CommitClimb(factor=2).check(run)
    assert found is not None
    assert found.sentence.endswith("its minimum of 0.2 at epoch 10")


def test_a_climb_that_stays_below_the_factor_goes_on() -> None:
    assert CommitClimb(factor=2).check(one("val/commit", [0.4, 0.2, 0.3, 0.39])) is None


def test_a_ceiling_stops_even_a_run_at_its_minimum_so_far() -> None:
    guard = CommitClimb(factor=None, ceiling=0.5, min_epochs=1)
    sentence = "val/commit 0.6 is above the ceiling of 0.5"
    assert guard.check(one("val/commit", [0.6])) == Breach(sentence, "val/commit", 0.6, 0.5)


def test_a_climb_guard_that_could_never_act_is_refused() -> None:
    with pytest.raises(ValueError, match="a factor, a ceiling, or both"):
        CommitClimb(factor=None)


def test_a_nan_in_between_is_no_minimum() -> None:
    assert CommitClimb().check(one("val/commit", [0.2, math.nan, 0.3])) is None
    assert CommitClimb().check(one("val/commit", [0.2, math.nan, 0.5])) is not None


@pytest.mark.parametrize(
    ("commitment", "reconstruction", "stopped"),
    [
        ([0.1, 0.4], [0.5, 0.4], False),  # drifts while it learns: healthy
        ([0.1, 0.1], [0.5, 0.9], False),  # gets worse on its codes: divergence's matter
        ([0.1, 0.4], [0.5, 0.9], True),
    ],
)
def test_drifting_latents_stop_a_run_only_while_its_task_gets_worse(
    commitment, reconstruction, stopped
) -> None:
    guard = CommitDrift(min_epochs=2)
    run = history(*guard.watched, values=list(zip(commitment, reconstruction, strict=True)))
    assert (guard.check(run) is not None) == stopped


@pytest.mark.parametrize(
    ("used", "stopped"),
    [
        ([0.5, 0.05, 0.04], False),  # not yet three in a row
        ([0.5, 0.05, 0.04, 0.03], True),
        ([0.03, 0.03, 0.03], True),  # dead from the start
        ([0.5, 0.05, 0.2, 0.03, 0.03], False),
        ([0.01, 0.02, 0.03, 0.04], False),  # coming to life
    ],
)
def test_a_codebook_is_collapsed_when_it_stays_below_its_floor(used, stopped) -> None:
    guard = CodebookCollapse(floor=0.1, patience=3, min_epochs=1)
    assert (guard.check(one("quality/utilization", used)) is not None) == stopped


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
