"""A log alone says what was decided: derived again, every decision is the same."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from searching import Regression
from test_scheduler_rules import metrics
from test_searcher_optuna import DEPENDENT, WIDE, opened
from typer.testing import CliRunner

from spinlock import cli
from spinlock.errors import SearchError
from spinlock.search.events import Event, EventLog, Reported, Suggested, read_events
from spinlock.search.ledger import EVENTS
from spinlock.search.replay import replay
from spinlock.search.rules import Stop
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL

KINDS = {"regression": Regression()}
EPOCHS = 9  # the reports that `book` expects


def played(of: Study) -> Study:
    return Study.model_validate(
        of.model_dump()
        | {"trials": 16, "training": {"epochs": EPOCHS}}
        | {"space": {k: v for k, v in of.model_dump()["space"].items() if k != "epochs"}}
        | {"start": [{"batch_size": 4}]}
    )


PLAYED = played(WIDE)


def search(directory: Path, workers: int, *, sessions: int = 1, study: Study = PLAYED) -> None:
    """16 trials, `workers` at a time in turn, of every fate; the driver is killed in between.

    The journal of Optuna is lost then: the log alone must do.
    """
    for session in range(sessions):
        (directory / JOURNAL).unlink(missing_ok=True)
        found, sampler = opened(directory, study, resume=session > 0)
        running = [trial.number for trial in found.ledger.unfinished]
        until = 16 if session == sessions - 1 else 6 * (session + 1)
        while len(found.ledger.trials) < until or (running and until == 16):
            while len(running) < workers and len(found.ledger.trials) < until:
                number = len(found.ledger.trials)
                running.append(found.suggested(sampler.ask(number)).number)
            for number in list(running):
                trial = found.ledger.trials[number]
                epoch = trial.epochs + 1
                value = abs(math.log10(float(trial.parameters["optimizer.lr"])) + 2.5) + 1 / epoch
                commit, stop = (0.1 * 3.0**epoch if number % 5 == 4 else 0.1), None
                if number % 5 == 3 and epoch == 2:
                    value, stop = math.nan, Stop("nonfinite", "the loss is NaN")
                if number == 6 and epoch == 3:
                    value = math.inf
                if number == 7:
                    found.fail(number, "ActorDiedError: killed")
                elif number == 9:
                    found.report(number, epoch, metrics(value), Stop("early_stopping", "no gain"))
                else:
                    found.report(number, epoch, metrics(value, commit), stop)
                sampler.tell(trial)
                if trial.verdict is not None:
                    running.remove(number)


@pytest.mark.parametrize("of", [WIDE, DEPENDENT], ids=["plain", "conditional"])
@pytest.mark.parametrize(("workers", "sessions"), [(1, 1), (2, 1), (4, 1), (2, 3), (4, 2)])
def test_every_decision_is_derived_again_from_the_log(
    tmp_path: Path, workers: int, sessions: int, of: Study
) -> None:
    search(tmp_path, workers, sessions=sessions, study=played(of))
    told = (tmp_path / EVENTS).read_bytes()
    found = replay(tmp_path, KINDS)
    assert found.differences == []
    assert found.suggestions == 16
    rules = {
        event.verdict.rule
        for event in read_events(tmp_path / EVENTS)
        if isinstance(event, Reported) and event.verdict is not None
    }
    assert rules >= {"asha", "nonfinite", "early_stopping", "completed"}
    assert (tmp_path / EVENTS).read_bytes() == told


def edited(
    directory: Path,
    change: Callable[[Event], Event],
    ends: Callable[[Event], bool] = lambda _: False,
) -> Path:
    """A search of two workers, its events up to the first that `ends` changed and sealed again."""
    true = directory / "true"
    true.mkdir()
    search(true, 2)
    log = EventLog(directory / EVENTS)
    for event in read_events(true / EVENTS):
        log.append(change(event))
        if ends(event):
            break
    log.close()
    return directory


def test_an_edited_verdict_is_found_out(tmp_path: Path) -> None:
    def its(event: Event) -> bool:
        return isinstance(event, Reported) and (event.trial, event.epoch) == (3, 2)

    def change(event: Event) -> Event:
        return event.model_copy(update={"verdict": None}) if its(event) else event

    (difference,) = replay(edited(tmp_path, change, ends=its), KINDS).differences
    assert difference.startswith("trial 3, epoch 2: the log has no verdict, and derived is")
    assert "nonfinite" in difference


def test_an_edited_suggestion_is_found_out(tmp_path: Path) -> None:
    def change(event: Event) -> Event:
        if isinstance(event, Suggested) and event.trial == 8:
            parameters = event.parameters | {"optimizer.lr": 0.0123}
            return event.model_copy(update={"parameters": parameters})
        return event

    found = replay(edited(tmp_path, change), KINDS)
    assert found.suggestions == 9
    assert found.differences[0].startswith("trial 8 was suggested as optimizer.lr 0.0123")


def test_what_is_no_search_or_of_an_unknown_kind_is_said(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no search has run here"):
        replay(tmp_path, KINDS)
    search(tmp_path, 1)
    with pytest.raises(SearchError, match="trained a 'regression'"):
        replay(tmp_path, {})
    done = CliRunner().invoke(cli.commands(), ["replay", str(tmp_path)])
    assert isinstance(done.exception, SearchError)
