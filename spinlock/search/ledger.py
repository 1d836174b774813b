"""The state of a search, folded from its events, and its tables.

trials.parquet   a row per trial: parameters, state, reason, epochs, best epoch and metrics
epochs.parquet   a row per trial and epoch: every metric
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spinlock.errors import SearchError
from spinlock.files import atomic_file
from spinlock.search.events import (
    Crashed,
    Ended,
    Event,
    Reported,
    Scalar,
    SessionClosed,
    SessionOpened,
    Started,
    State,
    StudyOpened,
    Suggested,
    Verdict,
    read_events,
)
from spinlock.search.space import Objective, Study

EVENTS = "events.jsonl"


@dataclass
class Trial:
    """One trial so far. `history[e - 1]` holds the metrics of epoch e."""

    number: int
    parameters: dict[str, Scalar]
    suggested: float
    attempts: int = 0
    started: float | None = None
    reported: float | None = None  # the first epoch
    ended: float | None = None
    crashes: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def epochs(self) -> int:
        return len(self.history)

    def state(self, *, live: bool = True) -> State:
        """Where it stands; unfinished is RUNNING while the search is `live`, else INTERRUPTED."""
        if self.verdict is not None:
            return self.verdict.state
        return State.RUNNING if live else State.INTERRUPTED

    def best(self, objective: Objective) -> tuple[int, float] | None:
        """(epoch, value) of its best finite epoch, the first of equals; None if there is none."""
        best: tuple[int, float] | None = None
        for epoch, metrics in enumerate(self.history, start=1):
            value = metrics.get(objective.metric, math.nan)
            if math.isfinite(value) and (best is None or objective.better(value, best[1])):
                best = epoch, value
        return best


@dataclass
class Session:
    """A stretch of the search under one driver; `closed` is None after a kill."""

    opened: float
    last: float
    closed: str | None = None


class Ledger:
    """Fold of a log. `values[e]` are the objective's values at epoch e, in order of arrival.

    Only healthy trials stand in `values`: one that a guard, a NaN or memory ends is taken out of
    every rung, so that it never again raises the bar for others (Determined's InvalidHP does so).
    """

    def __init__(self) -> None:
        self.opened: StudyOpened | None = None
        self.trials: dict[int, Trial] = {}
        self.values: dict[int, dict[int, float]] = {}
        self.sessions: list[Session] = []
        self._study: Study | None = None

    @property
    def study(self) -> Study:
        if self._study is None:
            raise SearchError("the log does not begin with its study: it is not a search's log.")
        return self._study

    @property
    def unfinished(self) -> list[Trial]:
        """Trials without a verdict, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.verdict is None]

    def apply(self, event: Event) -> None:
        """Take one event in. An event that cannot follow is an error: the log is not ours."""
        match event:
            case StudyOpened():
                self.opened = event
                self._study = Study.model_validate(event.study)
            case SessionOpened():
                self._study = self.study.model_copy(update={"trials": event.trials})
                self.sessions.append(Session(event.time, event.time))
            case Suggested():
                if event.trial != len(self.trials):
                    raise SearchError(f"trial {event.trial} follows {len(self.trials)} trials.")
                self.trials[event.trial] = Trial(event.trial, dict(event.parameters), event.time)
            case Started():
                trial = self._trial(event.trial)
                trial.attempts = event.attempt
                trial.started = event.time if trial.started is None else trial.started
            case Crashed():
                self._trial(event.trial).crashes.append(event.reason)
            case Reported():
                self._report(event)
            case Ended():
                self._end(self._trial(event.trial), event.verdict, event.time)
            case SessionClosed():
                if self.sessions:
                    self.sessions[-1].closed = event.reason
        if self.sessions:
            self.sessions[-1].last = event.time

    def _report(self, event: Reported) -> None:
        trial = self._trial(event.trial)
        if trial.verdict is not None or event.epoch != trial.epochs + 1:
            raise SearchError(
                f"epoch {event.epoch} of trial {event.trial} cannot follow {trial.epochs} epochs."
            )
        trial.history.append(event.metrics)
        trial.reported = event.time if trial.reported is None else trial.reported
        value = event.metrics.get(self.study.objective.metric, math.nan)
        if math.isfinite(value):
            self.values.setdefault(event.epoch, {})[event.trial] = value
        if event.verdict is not None:
            self._end(trial, event.verdict, event.time)

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise SearchError(f"trial {number} was never suggested: the log has lost a line.")
        return self.trials[number]

    def _end(self, trial: Trial, verdict: Verdict, time: float) -> None:
        trial.verdict, trial.ended = verdict, time
        if verdict.state in (State.GUARDED, State.INFEASIBLE):
            for values in self.values.values():
                values.pop(trial.number, None)


def fold(events: Iterable[Event]) -> Ledger:
    """The ledger after `events`."""
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger


def read_ledger(experiment: Path) -> Ledger:
    """The ledger of an experiment directory, whether it is running, ended or was killed."""
    path = experiment / EVENTS
    if not path.is_file():
        raise SearchError(f"{experiment}: no search has run here: there is no {EVENTS} in it.")
    return fold(read_events(path))


def write_tables(ledger: Ledger, experiment: Path) -> None:
    """Write trials.parquet and epochs.parquet, each in one step."""
    for name, table in (("trials", trials_table(ledger)), ("epochs", epochs_table(ledger))):
        with atomic_file(experiment / f"{name}.parquet") as path:
            pq.write_table(table, path)


def trials_table(ledger: Ledger) -> pa.Table:
    """A row per trial; searched settings as `param/<path>`, the best epoch's as `best/<metric>`."""
    live = bool(ledger.sessions) and ledger.sessions[-1].closed is None
    rows: list[dict[str, Any]] = []
    for trial in ledger.trials.values():
        best = trial.best(ledger.study.objective)
        row: dict[str, Any] = {
            "trial": trial.number,
            "state": str(trial.state(live=live)),
            "rule": trial.verdict.rule if trial.verdict else None,
            "reason": trial.verdict.sentence if trial.verdict else None,
            "attempts": trial.attempts,
            "epochs": trial.epochs,
            "best_epoch": best[0] if best else None,
            "value": best[1] if best else None,
            "suggested": trial.suggested,
            "started": trial.started,
            "ended": trial.ended,
        }
        row |= {f"param/{key}": value for key, value in trial.parameters.items()}
        if best is not None:
            row |= {f"best/{key}": v for key, v in trial.history[best[0] - 1].items()}
        rows.append(row)
    return _table(rows)


def epochs_table(ledger: Ledger) -> pa.Table:
    """A row per trial and epoch with every metric that was reported."""
    return _table(
        [
            {"trial": trial.number, "epoch": epoch, **metrics}
            for trial in ledger.trials.values()
            for epoch, metrics in enumerate(trial.history, start=1)
        ]
    )


def _table(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """One type per column: choices that mix numbers and words are kept as words."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array([float(v) if kinds == {int, float} and v is not None else v for v in values])
