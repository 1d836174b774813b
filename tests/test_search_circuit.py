"""A cause that ends trial after trial stops the search, which says so and can be resumed."""

from pathlib import Path

import pytest
from searching import Regression
from test_scheduler_rules import book, metrics, study
from test_searcher_optuna import agree, load

from spinlock.errors import SearchError
from spinlock.search.book import Book
from spinlock.search.events import Event, EventLog, State
from spinlock.search.ledger import read_ledger
from spinlock.search.moves import next_move
from spinlock.search.replay import replay
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.story import explain
from spinlock.search.study import run
from spinlock.search.trial import Trial

FULL = "SpinlockError: /x/trials/0000{}/checkpoint: cannot be written: No space left on device."
WANTED = study(trials=9, searcher={"kind": "random"})


def failing(found: Book, sentence: str) -> None:
    trial = found.suggested({"optimizer.lr": 0.01})
    found.fail(trial.number, sentence)


def test_the_third_failure_in_a_row_by_one_cause_ends_the_session(tmp_path: Path) -> None:
    found = book(tmp_path, WANTED)
    for number in range(3):
        assert found.ledger.broken is None
        assert next_move(found.ledger) == "new"
        failing(found, FULL.format(number))
    assert next_move(found.ledger) == "end"
    assert found.ledger.broken == (
        "trials 0, 1, 2 failed one after the other by the same cause, and no epoch was trained "
        f"between: {FULL.format(2)} No further trial is begun."
    )
    assert read_ledger(tmp_path).broken == found.ledger.broken
    found.close()
    assert found.ledger.sessions[-1].closed == "interrupted"


def test_a_resume_takes_up_who_failed_and_begins_others(tmp_path: Path) -> None:
    found = book(tmp_path, WANTED)
    apart = found.suggested({"optimizer.lr": 0.01})
    found.fail(apart.number, "ValueError: of its own")
    for number in range(1, 5):  # of several workers, a fourth one was on its way
        failing(found, FULL.format(number))
    found.close()
    found = book(tmp_path, WANTED, resume=True)
    assert [trial.number for trial in found.ledger.under_way] == [1, 2, 3, 4]
    assert apart.state() == State.FAILED
    assert next_move(found.ledger) == "new"
    for trial in found.ledger.under_way:
        assert found.ledger.broken is None
        found.fail(trial.number, FULL.format(trial.number))
        if trial.number == 3:
            break
    assert found.ledger.broken is not None
    assert read_ledger(tmp_path).victims == found.ledger.victims == []
    found.close()
    found = book(tmp_path, WANTED, resume=True)
    assert [trial.number for trial in found.ledger.under_way] == [4], "the others had their chance"
    assert next_move(found.ledger) == "new"


def test_whoever_fails_by_the_cause_once_the_circuit_is_open_is_taken_up_with_the_others(
    tmp_path: Path,
) -> None:
    found = book(tmp_path, WANTED)
    good, late, other = (found.suggested({"optimizer.lr": 0.01}) for _ in range(3))
    for number in range(3, 6):
        failing(found, FULL.format(number))
    found.fail(late.number, FULL.format(late.number))
    found.fail(other.number, "ValueError: of its own")
    found.report(good.number, 1, metrics(0.5), None)
    assert read_ledger(tmp_path).victims == [late.number, 3, 4, 5]
    found.close()
    found = book(tmp_path, WANTED, resume=True)
    assert found.ledger.sessions[-1].again == (late.number, 3, 4, 5)
    story = "\n".join(explain(found.ledger, late.number))
    assert "It was given up. The search was resumed, and took it up again" in story


def test_a_circuit_that_opens_with_the_last_trials_leaves_them_to_a_resume(tmp_path: Path) -> None:
    wanted = study(trials=3, searcher={"kind": "random"})
    found = book(tmp_path, wanted)
    for number in range(3):
        failing(found, FULL.format(number))
    found.close()
    assert found.ledger.sessions[-1].closed == "interrupted"
    assert len(book(tmp_path, wanted, resume=True).ledger.under_way) == 3


def test_who_is_taken_up_again_has_all_of_its_retries(tmp_path: Path) -> None:
    wanted = study(trials=9, searcher={"kind": "random"}, retries=1)
    found = book(tmp_path, wanted)
    for number in range(3):
        trial = found.suggested({"optimizer.lr": 0.01})
        for _ in range(2):
            found.crashed(trial.number, FULL.format(number))
    found.close()
    found = book(tmp_path, wanted, resume=True)
    found.crashed(0, "ActorDiedError: killed")
    assert found.ledger.trials[0].verdict is None
    found.crashed(0, "ActorDiedError: killed")
    assert found.ledger.trials[0].verdict is not None
    story = "\n".join(explain(found.ledger, 1))
    assert f"Attempt 2 failed: {FULL.format(1).rstrip('.')}" in story
    assert story.index("Attempt 2 failed") < story.index("took it up again with all its retries")
    story = "\n".join(explain(found.ledger, 0))
    assert story.index("took it up again") < story.index("Attempt 3 failed: ActorDiedError")


@pytest.mark.parametrize("kind", ["random", "tpe", "gp", "cmaes"])
def test_suggestions_after_trials_were_taken_up_again_are_derived_from_the_log(
    tmp_path: Path, kind: str
) -> None:
    wanted = study(
        **{"trials": 9, "retries": 0, "searcher": {"kind": kind}, "scheduler": {"kind": "none"}},
        space={
            "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
            "loss.lambda_commit": {"uniform": [0.0, 1.0]},
        },
    )
    found = book(tmp_path, wanted)
    sampler = Sampler.open(tmp_path, found.ledger)

    def begin() -> Trial:
        return found.suggested(sampler.ask(len(found.ledger.trials)))

    def train(trial: Trial) -> None:
        for epoch in range(trial.epochs + 1, 10):
            found.report(trial.number, epoch, metrics(1 / (epoch + trial.number)), None)
        sampler.tell(trial)

    train(begin())
    for number in range(1, 4):
        trial = begin()
        found.report(trial.number, 1, metrics(1.0), None) if number == 1 else None
        found.crashed(trial.number, FULL.format(number))
        sampler.tell(trial)
    found.close()
    found = book(tmp_path, wanted, resume=True)
    sampler = Sampler.open(tmp_path, found.ledger)
    for trial in found.ledger.under_way:
        train(trial)
    while found.ledger.left:
        train(begin())
    found.close()
    agree(found.ledger, load(tmp_path))
    assert replay(tmp_path, {"regression": Regression()}).differences == []


@pytest.mark.parametrize("between", ["epoch", "cause"])
def test_failures_that_say_nothing_about_a_common_cause_end_nothing(
    tmp_path: Path, between: str
) -> None:
    found = book(tmp_path, WANTED)
    good = found.suggested({"optimizer.lr": 0.01})
    for number in range(1, 7):
        if number % 2 == 0 and between == "epoch":
            found.report(good.number, number // 2, metrics(0.5), None)
        other = between == "cause" and number % 2 == 0
        failing(found, "ActorDiedError: killed" if other else FULL.format(number))
    assert found.ledger.broken is None


def test_trials_under_way_run_on_and_the_circuit_stays_open(tmp_path: Path) -> None:
    found = book(tmp_path, WANTED)
    good = found.suggested({"optimizer.lr": 0.01})
    for number in range(1, 4):
        failing(found, FULL.format(number))
    found.report(good.number, 1, metrics(0.5), None)
    assert next_move(found.ledger) == "end"


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_the_session_in_its_own_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = EventLog.append

    def full(log: EventLog, event: Event) -> None:
        if event.event == "epoch" and event.epoch == 2:
            raise SearchError("events.jsonl: cannot be written: No space left on device.")
        append(log, event)

    wanted = study(trials=2, resources={"execution": "in_process", "concurrent": 1})
    monkeypatch.setattr(EventLog, "append", full)
    with pytest.raises(SearchError, match=r"^events.jsonl: cannot be written: No space left"):
        run(wanted, Regression(), tmp_path / "x", dashboard=False)
    monkeypatch.undo()
    resumed = run(wanted, Regression(), tmp_path / "x", resume=True, dashboard=False)
    assert resumed.finished
    assert replay(tmp_path / "x", {"regression": Regression()}).differences == []


@pytest.mark.slow
def test_a_search_whose_trials_all_raise_stops_and_goes_on_once_they_do_not(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mended"
    wanted = Study.model_validate(
        {
            **{"name": "rules", "trials": 4, "retries": 0, "searcher": {"kind": "random"}},
            "resources": {"execution": "in_process", "concurrent": 1},
            "training": {"epochs": 2, "raise_without": str(mark)},
            "space": {"optimizer.lr": {"log_uniform": [1e-3, 1e-2]}},
        }
    )
    stopped = run(wanted, Regression(), tmp_path / "x", dashboard=False)
    assert not stopped.finished
    assert stopped.ledger.broken is not None
    assert f"ValueError: {mark} is not there" in stopped.ledger.broken
    assert len(stopped.ledger.trials) == 3
    mark.touch()
    resumed = run(wanted, Regression(), tmp_path / "x", resume=True, dashboard=False)
    assert resumed.finished
    states = [str(trial.state()) for trial in resumed.ledger.trials.values()]
    assert "FAILED" not in states, "nor of those that the cause had ended"
    assert [trial.attempts for trial in resumed.ledger.trials.values()] == [2, 2, 2, 1]
    agree(resumed.ledger, load(tmp_path / "x"))
    assert replay(tmp_path / "x", {"regression": Regression()}).differences == []
