"""Trials wait at rungs with their checkpoints, and the best of each rung go on."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import Regression, RegressionConfig, RegressionTrainer, told
from test_searcher_optuna import agree, load

from spinlock.errors import ConfigError, SearchError
from spinlock.search.book import Book
from spinlock.search.check import check
from spinlock.search.events import EventLog, Promoted, State, read_events
from spinlock.search.hypervolume import greedy
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.moves import Promote, next_move
from spinlock.search.recorded import Run
from spinlock.search.replay import replay
from spinlock.search.sampler import Sampler
from spinlock.search.simulation import Ours, simulate
from spinlock.search.space import Objective, Study
from spinlock.search.story import explain
from spinlock.search.study import run
from spinlock.search.summary import summary
from spinlock.search.trial import Trial

KINDS = {"regression": Regression()}


def study(**changes: Any) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 12,
            "seed": 3,
            "resources": {"execution": "in_process", "concurrent": 2},
            "searcher": {"kind": "tpe", "startup_trials": 4},
            "scheduler": {"kind": "promotion", "rungs": [1, 3], "reduction_factor": 2},
            "training": {"epochs": 6},
            "space": {
                "optimizer.lr": {"log_uniform": [1e-4, 0.4]},
                "batch_size": {"choice": [4, 8, 16]},
            },
            **changes,
        }
    )


class Alone:
    """A search by one worker in this process, which may be left after any report."""

    def __init__(self, directory: Path, asked: Study, *, resume: bool = False) -> None:
        self.book = Book.open(
            directory,
            asked,
            trainable="regression",
            facts={},
            reporting=lambda trial: Regression().reporting(self.configured(trial)),
            resume=resume,
        )
        self.sampler = Sampler.open(directory, self.book.ledger)

    def configured(self, trial: Trial) -> RegressionConfig:
        return RegressionConfig.model_validate(
            self.book.ledger.study.configuration(trial.parameters)
        )

    def go_on(self, reports: int = 10_000) -> Ledger:
        """Until so many reports are in the book, or the search has ended."""
        book, ledger = self.book, self.book.ledger
        while reports:
            trial = next(iter(ledger.under_way), None)
            if trial is None:
                match next_move(ledger):
                    case Promote(number, rung):
                        trial = book.promote(number, rung)
                        self.sampler.tell(trial)
                    case "new":
                        trial = book.suggested(self.sampler.ask(len(ledger.trials)))
                    case "wait" | "end":
                        for number in book.conclude():
                            self.sampler.tell(ledger.trials[number])
                        book.close()
                        return ledger
            for report in RegressionTrainer(self.configured(trial)).epochs():
                if report.epoch <= trial.epochs:
                    continue
                verdict = book.report(trial.number, report.epoch, report.metrics, report.stop)
                self.sampler.tell(trial)
                reports -= 1
                if verdict is not None or trial.paused is not None or not reports:
                    break
        return ledger


def test_half_of_each_rung_goes_on_and_it_is_the_best_half(tmp_path: Path) -> None:
    ledger = Alone(tmp_path, study()).go_on()
    assert {rung: len(values) for rung, values in ledger.rungs.items()} == {1: 12, 3: 6}
    for rung, values in ledger.rungs.items():
        best = sorted(values, key=lambda number: values[number])[: len(values) // 2]
        went_on = {n for n in values if ledger.trials[n].epochs > rung}
        assert {*best} <= went_on, "whoever is among the best in the end has gone on"
    ends = [trial.state() for trial in ledger.trials.values()]
    assert set(ends) == {State.COMPLETED, State.PRUNED}
    assert ends.count(State.COMPLETED) >= 3
    agree(read_ledger(tmp_path), load(tmp_path))


def test_a_search_that_was_left_and_taken_up_decides_as_if_it_never_had(tmp_path: Path) -> None:
    straight = Alone(tmp_path / "straight", study()).go_on()
    for pause in (1, 7, 2, 9):
        Alone(tmp_path / "left", study(), resume=(tmp_path / "left" / EVENTS).exists()).go_on(pause)
    assert any(t.paused for t in read_ledger(tmp_path / "left").trials.values())
    ended = Alone(tmp_path / "left", study(), resume=True).go_on()
    assert told(ended) == told(straight)
    found = replay(tmp_path / "left", KINDS)
    assert found.differences == []
    assert found.promotions >= 6


SEVERAL = [{"metric": "val/traj"}, {"metric": "val/latent", "mode": "max"}]


def test_by_several_objectives_those_go_on_that_add_most_to_the_hypervolume(
    tmp_path: Path,
) -> None:
    asked = study(objectives=SEVERAL)
    straight = Alone(tmp_path / "straight", asked).go_on()
    for rung, values in straight.rungs.items():
        best = greedy(values, asked.goals, len(values) // 2)
        assert {*best} <= {n for n in values if straight.trials[n].epochs > rung}
    pruned = [t.verdict for t in straight.trials.values() if t.state() == State.PRUNED]
    assert pruned
    for verdict in pruned:
        assert verdict is not None
        assert "val/latent" in verdict.sentence
        assert "by the hypervolume that they add: the best" in verdict.sentence
    for pause in (1, 7, 2, 9):
        left = tmp_path / "left"
        Alone(left, asked, resume=(left / EVENTS).exists()).go_on(pause)
    assert told(Alone(tmp_path / "left", asked, resume=True).go_on()) == told(straight)
    assert replay(tmp_path / "left", KINDS).differences == []


def test_who_waits_at_a_rung_is_told_as_such_and_why_it_went_no_further(tmp_path: Path) -> None:
    search = Alone(tmp_path, study())
    search.go_on(1)
    assert search.book.ledger.trials[0].state() == State.PAUSED
    assert "PAUSED" in explain(search.book.ledger, 0)[0]
    ledger = search.go_on()
    pruned = next(t for t in ledger.trials.values() if t.state() == State.PRUNED)
    assert pruned.verdict is not None
    assert pruned.verdict.rule == "promotion"
    assert "of 12: the best 6 go on" in pruned.verdict.sentence
    assert pruned.verdict.numbers["saved"] == 6 - pruned.epochs
    assert "where it waits" in " ".join(explain(ledger, 0))


def test_a_guard_that_would_stop_an_audited_trial_at_a_rung_lets_it_run_on(tmp_path: Path) -> None:
    asked = study(
        audit=1.0,
        scheduler={"kind": "promotion", "rungs": [2, 4], "reduction_factor": 2},
        guards=[{"kind": "plateau", "patience": 1, "improvement": 0.9, "min_epochs": 2}],
    )
    ledger = Alone(tmp_path, asked).go_on()
    spared = [trial for trial in ledger.trials.values() if trial.spared is not None]
    assert spared
    assert {trial.state() for trial in spared} == {State.COMPLETED}
    assert replay(tmp_path, KINDS).differences == []


def test_a_spent_budget_leaves_those_that_wait_for_a_resume_with_more(tmp_path: Path) -> None:
    ledger = Alone(tmp_path, study(budget={"epochs": 5})).go_on()
    assert {trial.state() for trial in ledger.trials.values()} == {State.PAUSED}
    assert ledger.sessions[-1].closed == "finished", "with what it was given"
    (line,) = (line for line in summary(ledger, epochs=9) if line.startswith("budget"))
    assert f"{len(ledger.trials)} of the trials wait at a rung for more. --resume" in line
    more = Alone(tmp_path, study(), resume=True).go_on()
    assert len(more.trials) == 12
    assert not more.unfinished
    assert replay(tmp_path, KINDS).differences == []


def test_more_trials_after_the_end_are_promoted_whoever_was_given_up(tmp_path: Path) -> None:
    first = Alone(tmp_path, study()).go_on()
    given_up = {n for n, t in first.trials.items() if t.state() == State.PRUNED}
    more = Alone(tmp_path, study(trials=24), resume=True).go_on()
    assert any(more.trials[number].state() == State.COMPLETED for number in range(12, 24))
    assert all(more.trials[number].state() == State.PRUNED for number in given_up)
    assert replay(tmp_path, KINDS).differences == []


def test_a_study_of_too_few_trials_for_any_to_end_is_refused() -> None:
    asked = study(trials=5, scheduler={"kind": "promotion", "rungs": [1, 3]})
    with pytest.raises(ConfigError, match=r"of 5 trials none would pass.*Ask for 9 trials"):
        check(asked, Regression(), where="study")


def test_a_log_without_one_of_its_promotions_is_refused(tmp_path: Path) -> None:
    ledger = Alone(tmp_path / "true", study()).go_on()
    log, done = EventLog(tmp_path / EVENTS), False
    for event in read_events(tmp_path / "true" / EVENTS):
        if isinstance(event, Promoted) and not done:
            done = True
            continue
        log.append(event)
    log.close()
    with pytest.raises(SearchError, match="which waits at rung 1, cannot report"):
        read_ledger(tmp_path)
    with pytest.raises(SearchError, match="does not wait at rung 5"):
        ledger.apply(Promoted(time=0, trial=0, rung=5))


def test_a_promotion_that_is_not_the_next_move_is_found_out(tmp_path: Path) -> None:
    search = Alone(tmp_path, study())
    search.go_on(1)
    search.book.promote(0, 1)  # the first alone is not among the best half of one
    (difference,) = replay(tmp_path, KINDS).differences
    assert "Promote(trial=0, rung=1), and derived is new" in difference


@settings(deadline=None, max_examples=60)
@given(
    finals=st.lists(st.integers(0, 10**6), min_size=1, max_size=24, unique=True),
    seconds=st.lists(st.floats(0.1, 9), min_size=24, max_size=24),
    factor=st.sampled_from([1.5, 2.0, 3.0, 4.0]),
    rungs=st.sampled_from([[1], [2, 5], [1, 3, 6], [7]]),
)
def test_where_trials_rank_alike_at_every_epoch_the_best_is_found_whatever_the_pace(
    finals: list[int], seconds: list[float], factor: float, rungs: list[int]
) -> None:
    """And never more go on than the factor allows of all that came."""
    runs = [
        Run(
            index,
            0,
            "test",
            {epoch: {"val/traj": 1.0 + final / epoch, "seconds": pace} for epoch in range(1, 10)},
        )
        for index, (final, pace) in enumerate(zip(finals, seconds, strict=False))
    ]
    asked = Study.model_validate(
        {
            "name": "any",
            "trials": len(runs),
            "scheduler": {"kind": "promotion", "rungs": rungs, "reduction_factor": factor},
            "space": {"x": {"uniform": [0, 1]}},
        }
    )
    decider = Ours(asked, 9)
    found = simulate(decider, runs, Objective())
    ledger = decider.ledger
    assert not ledger.unfinished
    assert len(ledger.trials) == len(runs)
    for rung, values in ledger.rungs.items():
        best = sorted(values, key=lambda number: values[number])[: int(len(values) / factor)]
        assert all(ledger.trials[number].epochs > rung for number in best)
    if all(int(len(values) / factor) for values in ledger.rungs.values()):
        assert found.best == 1.0 + min(finals) / 9


@pytest.mark.slow
def test_a_search_on_ray_pauses_its_trials_and_takes_them_up_where_they_were(
    tmp_path: Path,
) -> None:
    result = run(study(trials=8), Regression(), tmp_path / "x", dashboard=False)
    assert result.finished
    ledger = result.ledger
    for trial in ledger.trials.values():
        alone = RegressionTrainer(
            RegressionConfig.model_validate(ledger.study.configuration(trial.parameters))
        )
        expected = {r.epoch: repr(r.metrics["val/traj"]) for r in alone.epochs()}
        assert list(trial.history) == list(range(1, trial.epochs + 1)), "none twice, none lost"
        assert all(repr(row["val/traj"]) == expected[epoch] for epoch, row in trial.history.items())
    promoted = [e for e in read_events(tmp_path / "x" / EVENTS) if isinstance(e, Promoted)]
    assert len(promoted) >= 4
    assert {t.state() for t in ledger.trials.values()} == {State.COMPLETED, State.PRUNED}
    found = replay(tmp_path / "x", KINDS)
    assert found.differences == []
    assert found.promotions == len(promoted)
    agree(read_ledger(tmp_path / "x"), load(tmp_path / "x"))
