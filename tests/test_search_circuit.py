"""A cause that ends trial after trial stops the search, which says so and can be resumed."""

from pathlib import Path

import pytest
from searching import Regression
from test_scheduler_rules import book, metrics, study

from spinlock.errors import SearchError
from spinlock.search.book import Book
from spinlock.search.events import Event, EventLog
from spinlock.search.ledger import read_ledger
from spinlock.search.moves import next_move
from spinlock.search.replay import replay
from spinlock.search.space import Study
from spinlock.search.study import run

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


def test_a_resume_begins_trials_again(tmp_path: Path) -> None:
    found = book(tmp_path, WANTED)
    for number in range(3):
        failing(found, FULL.format(number))
    found.close()
    found = book(tmp_path, WANTED, resume=True)
    assert next_move(found.ledger) == "new"
    for number in range(3):
        assert found.ledger.broken is None
        failing(found, FULL.format(number))
    assert found.ledger.broken is not None


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
            **{"name": "rules", "trials": 6, "retries": 0, "searcher": {"kind": "random"}},
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
    assert states[:3] == ["FAILED"] * 3
    assert "FAILED" not in states[3:]
    assert replay(tmp_path / "x", {"regression": Regression()}).differences == []
