"""Who is stopped, when, and with which sentence: pure functions of the log."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers.async_hyperband import _Bracket
from searching import Regression

from spinlock.search.book import Book
from spinlock.search.events import State, Verdict, read_events
from spinlock.search.ledger import fold, read_ledger
from spinlock.search.rules import Stop, judge
from spinlock.search.space import Study


def study(**changes: object) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 64,
            "training": {"epochs": 9},
            "space": {"optimizer.lr": {"log_uniform": [1e-4, 1e-1]}},
            "guards": [{"kind": "commit_climb", "factor": 2.0}],
            **changes,
        }
    )


def book(
    directory: Path,
    wanted: Study | None = None,
    *,
    resume: bool = False,
    reporting: Sequence[int] = range(1, 10),
) -> Book:
    return Book.open(
        directory,
        wanted or study(),
        trainable=Regression.name,
        facts={},
        reporting=lambda _: reporting,
        resume=resume,
    )


def metrics(traj: float, commit: float = 0.1) -> dict[str, float]:
    return {"val/traj": traj, "val/commit": commit, "train/total": traj}


def verdicts(found: Book) -> dict[int, Verdict | None]:
    return {number: trial.verdict for number, trial in found.ledger.trials.items()}


values = st.floats(0.01, 10, allow_subnormal=False)


@settings(max_examples=12, deadline=None)
@given(st.lists(values, min_size=2, max_size=20), st.sampled_from(["min", "max"]))
def test_the_cut_at_a_rung_is_rays_own(tmp_path_factory, reports, mode) -> None:
    """Ray's bracket on the same arrivals stops the same trials (finite values only)."""
    found = book(
        tmp_path_factory.mktemp("cut"), study(objective={"metric": "val/traj", "mode": mode})
    )
    bracket, sign = _Bracket(1, 9, 3, 0), 1 if mode == "max" else -1

    class Arrival:
        def __init__(self, number: int) -> None:
            self.trial_id = str(number)

    for number, value in enumerate(reports):
        found.suggested({"optimizer.lr": 0.01})
        verdict = found.report(number, 1, metrics(value), None)
        theirs = bracket.on_result(Arrival(number), 1, sign * value)
        assert (verdict is not None) == (theirs == "STOP")


@settings(max_examples=12, deadline=None)
@given(st.lists(values, min_size=2, max_size=20), st.integers(2, 5))
def test_runs_that_report_every_few_epochs_are_cut_as_rays_are(
    tmp_path_factory, reports, every
) -> None:
    """At the first report at or after a rung; one that passes two counts for the higher."""
    reporting = [*range(every, 9, every), 9]
    compared = {min(epoch for epoch in reporting if epoch >= rung) for rung in (1, 3)}
    found = book(tmp_path_factory.mktemp("gaps"), reporting=reporting)
    bracket = _Bracket(1, 9, 3, 0)

    class Arrival:
        def __init__(self, number: int) -> None:
            self.trial_id = str(number)

    for number, value in enumerate(reports):
        found.suggested({"optimizer.lr": 0.01})
        for epoch in reporting[:-1]:
            verdict = found.report(number, epoch, metrics(value / epoch), None)
            theirs = "CONTINUE"
            if epoch in compared:
                theirs = bracket.on_result(Arrival(number), epoch, -value / epoch)
            assert (verdict is not None) == (theirs == "STOP")
            if verdict is not None:
                break


def test_a_spared_trial_is_never_pruned_and_raises_the_bar_like_any_other(tmp_path: Path) -> None:
    found = book(tmp_path, study(scheduler={"kind": "asha", "spare": 2}))
    for number, value in ((1, 0.2), (0, 9.0), (2, 8.0)):
        while len(found.ledger.trials) <= number:
            found.suggested({"optimizer.lr": 0.01})
        for epoch in range(1, 10):
            if found.report(number, epoch, metrics(value), None) is not None:
                break
    states = {number: trial.state() for number, trial in found.ledger.trials.items()}
    assert states == {0: State.COMPLETED, 1: State.COMPLETED, 2: State.PRUNED}
    assert found.ledger.rungs[1] == {1: (0.2,), 0: (9.0,), 2: (8.0,)}


def test_a_rung_between_two_reports_is_compared_at_the_later(tmp_path: Path) -> None:
    found = book(tmp_path, reporting=[2, 4, 6, 8, 9])
    for number, (second, fourth) in enumerate([(1.0, 0.3), (0.9, 0.4), (0.8, 0.5)]):
        found.suggested({"optimizer.lr": 0.01})
        assert found.report(number, 2, metrics(second), None) is None
        found.report(number, 4, metrics(fourth), None)
    assert found.ledger.rungs[1] == {0: (1.0,), 1: (0.9,), 2: (0.8,)}
    assert found.ledger.rungs[3] == {0: (0.3,), 1: (0.4,), 2: (0.5,)}
    last = verdicts(found)[2]
    assert last is not None
    assert last.sentence.startswith("ASHA: val/traj 0.5 at epoch 4 is not among the best 1/3 of 3")
    assert read_ledger(tmp_path).rungs == found.ledger.rungs
    assert read_ledger(tmp_path).trials[1].history == {2: metrics(0.9), 4: metrics(0.4)}


def test_a_run_of_gaps_completes_at_its_last_epoch_and_may_stop_in_between(
    tmp_path: Path,
) -> None:
    found = book(tmp_path, reporting=[4, 8, 9])
    found.suggested({"optimizer.lr": 0.01})
    for epoch in (4, 8, 9):
        found.report(0, epoch, metrics(1 / epoch), None)
    assert found.ledger.trials[0].verdict is not None
    assert found.ledger.trials[0].verdict.sentence == "ran all 9 epochs"
    found.suggested({"optimizer.lr": 0.01})
    found.report(1, 4, metrics(0.2), None)
    verdict = found.report(1, 6, {"train/total": math.nan}, Stop("nonfinite", "NaN gradients"))
    assert verdict is not None
    assert verdict.state == State.INFEASIBLE


@pytest.mark.parametrize("epoch", [5, 9])
def test_a_report_that_was_not_due_fails_the_trial(tmp_path: Path, epoch: int) -> None:
    found = book(tmp_path, reporting=[4, 8, 9])
    found.suggested({"optimizer.lr": 0.01})
    found.report(0, 4, metrics(0.3), None)
    verdict = found.report(0, epoch, metrics(0.2), None)
    assert verdict is not None
    assert verdict.state == State.FAILED
    assert verdict.sentence == f"epoch {epoch} was reported after epoch 4, and 8 was due"


def test_a_nan_objective_is_infeasible_whatever_it_is_called(tmp_path: Path) -> None:
    wanted = study(objective={"metric": "quality/composite"})
    found = book(tmp_path, wanted)
    found.suggested({"optimizer.lr": 0.01})
    verdict = found.report(0, 1, {"quality/composite": math.nan, "quality/other": math.nan}, None)
    assert verdict is not None
    assert verdict.state == State.INFEASIBLE
    assert verdict.sentence == "quality/composite is nan at epoch 1"


SEVERAL = {
    "objectives": [
        {"metric": "val/traj", "mode": "min"},
        {"metric": "quality/utilization", "mode": "max"},
    ],
}


def test_with_several_objectives_asha_compares_by_the_metric_that_is_named(tmp_path: Path) -> None:
    asha = {"kind": "asha", "metric": "quality/utilization"}
    found = book(tmp_path, study(**SEVERAL, scheduler=asha, guards=[]))
    for number, used in enumerate((0.2, 0.5, 0.3)):
        found.suggested({"optimizer.lr": 0.01})
        found.report(number, 1, {"val/traj": 1 - used, "quality/utilization": used}, None)
    verdict = verdicts(found)[2]
    assert verdict is not None
    assert verdict.sentence == (
        "ASHA: quality/utilization 0.3 at epoch 1 is not among the best 1/3 of 3 (cut 0.4)"
    )


def test_every_objective_must_be_reported(tmp_path: Path) -> None:
    found = book(tmp_path, study(**SEVERAL, scheduler={"kind": "none"}))
    found.suggested({"optimizer.lr": 0.01})
    verdict = found.report(0, 1, {"val/traj": 0.1}, None)
    assert verdict is not None
    assert verdict.sentence == "epoch 1 reported no quality/utilization, but val/traj"


def test_a_pruned_trial_is_told_why_in_numbers(tmp_path: Path) -> None:
    found = book(tmp_path)
    for value in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        found.suggested({"optimizer.lr": 0.01})
        found.report(len(found.ledger.trials) - 1, 1, metrics(value), None)
    verdict = verdicts(found)[5]
    assert verdict is not None
    assert verdict.state == State.PRUNED
    assert verdict.sentence == (
        "ASHA: val/traj 0.9 at epoch 1 is not among the best 1/3 of 6 (cut 0.5333)"
    )
    assert verdict.numbers["compared"] == 6


def test_the_first_at_a_rung_goes_on_and_the_last_epoch_compares_with_nobody(
    tmp_path: Path,
) -> None:
    found = book(tmp_path)
    for number, start in enumerate((1.0, 0.5)):
        found.suggested({"optimizer.lr": 0.01})
        for epoch in range(1, 10):
            found.report(number, epoch, metrics(start / epoch), None)
    assert [v.sentence for v in verdicts(found).values() if v] == ["ran all 9 epochs"] * 2


sick = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(values, st.booleans()), min_size=3, max_size=15),
    sick,
    st.integers(1, 3),
)
def test_a_nan_stops_at_its_first_report_and_changes_nobody_elses_verdict(
    tmp_path_factory, arrivals, poison, at
) -> None:
    """With the sick trials among the healthy ones, each healthy verdict is as without them."""
    mixed, pure = (book(tmp_path_factory.mktemp("nan")) for _ in range(2))
    healthy = 0
    for number, (value, is_sick) in enumerate(arrivals):
        mixed.suggested({"optimizer.lr": 0.01})
        if is_sick:
            for epoch in range(1, at):
                mixed.report(number, epoch, metrics(value / 1e6), None)
            if (earlier := verdicts(mixed)[number]) is None:
                verdict = mixed.report(number, at, metrics(poison), None)
                assert verdict is not None
                assert verdict.state == State.INFEASIBLE
                assert f"at epoch {at}" in verdict.sentence
                assert all(number not in rung for rung in mixed.ledger.rungs.values())
            else:
                assert earlier.state == State.PRUNED
            continue
        pure.suggested({"optimizer.lr": 0.01})
        for epoch in (1, 2, 3):
            with_sick = mixed.report(number, epoch, metrics(value / epoch), None)
            without = pure.report(healthy, epoch, metrics(value / epoch), None)
            assert (with_sick is None) == (without is None)
        healthy += 1


def test_a_climbing_commitment_is_guarded_and_leaves_the_rungs(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.suggested({"optimizer.lr": 0.01})
    assert found.report(0, 1, metrics(0.1, commit=0.1), None) is None
    verdict = found.report(0, 2, metrics(0.05, commit=0.3), None)
    assert verdict is not None
    assert (verdict.state, verdict.rule) == (State.GUARDED, "commit_climb")
    assert "above 2 times its minimum of 0.1 at epoch 1" in verdict.sentence
    assert all(not rung for rung in found.ledger.rungs.values())


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("nonfinite", State.INFEASIBLE),
        ("memory", State.INFEASIBLE),
        ("early_stopping", State.COMPLETED),
    ],
)
def test_a_trainers_own_stop_keeps_its_kind_and_sentence(
    tmp_path: Path, kind: str, state: State
) -> None:
    found = book(tmp_path)
    found.suggested({"optimizer.lr": 0.01})
    values = {} if kind == "memory" else metrics(0.3)
    verdict = found.report(0, 1, values, Stop(kind, "because of this.\n"))
    assert verdict is not None
    assert (verdict.state, verdict.rule, verdict.sentence) == (state, kind, "because of this")


def test_a_report_without_the_objective_fails_that_trial_alone(tmp_path: Path) -> None:
    found = book(tmp_path)
    for _ in range(2):
        found.suggested({"optimizer.lr": 0.01})
    verdict = found.report(0, 1, {"val/commit": 0.1}, None)
    assert verdict is not None
    assert verdict.sentence == "epoch 1 reported no val/traj, but val/commit"
    assert found.report(1, 1, metrics(0.3), None) is None


def test_a_report_told_twice_changes_nothing(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.suggested({"optimizer.lr": 0.01})
    found.report(0, 1, metrics(0.3), None)
    before = (tmp_path / "events.jsonl").read_bytes()
    assert found.report(0, 1, metrics(99.0), None) is None
    assert (tmp_path / "events.jsonl").read_bytes() == before


def test_an_epoch_that_is_skipped_fails_the_trial(tmp_path: Path) -> None:
    found = book(tmp_path)
    found.suggested({"optimizer.lr": 0.01})
    found.report(0, 1, metrics(0.3), None)
    verdict = found.report(0, 3, metrics(0.2), None)
    assert verdict is not None
    assert verdict.sentence == "epoch 3 was reported after epoch 1, and 2 was due"


def test_judging_the_log_again_gives_every_verdict_again(tmp_path: Path) -> None:
    """The verdicts are a function of the log alone: no clock, no hidden state."""
    found = book(tmp_path)
    for _ in range(20):
        found.suggested({"optimizer.lr": 0.01})
    for epoch in range(1, 10):
        for number in range(20):
            value = ((number * 7919) % 20 + 1) / epoch
            commit = 0.1 * (3.0 ** (epoch - 1) if number % 6 == 5 else 1)
            found.report(number, epoch, metrics(math.nan if number == 3 else value, commit), None)
    states = {v.state for v in verdicts(found).values() if v is not None}
    assert states == {State.COMPLETED, State.PRUNED, State.GUARDED, State.INFEASIBLE}
    again = fold(())
    for event in read_events(tmp_path / "events.jsonl"):
        if event.event == "epoch":
            trial = again.trials[event.trial]
            found_again = judge(again, trial, event.epoch, event.metrics, None, epochs=9)
            assert found_again == event.verdict
        again.apply(event)
    assert again.rungs == read_ledger(tmp_path).rungs == found.ledger.rungs
