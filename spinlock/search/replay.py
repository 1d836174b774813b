"""A search derived again from its log alone: every suggestion, and the verdict on every report.

What was decided is a function of what was known, in the order in which the log tells it, whatever
the number of workers, interruptions and the clock. A difference means that the log was edited, or
that another version of Spinlock or Optuna, or another processor, decides differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spinlock.config import parse
from spinlock.errors import SearchError
from spinlock.search.events import (
    Ended,
    Event,
    Promoted,
    Reported,
    SessionOpened,
    StudyOpened,
    Suggested,
    Verdict,
)
from spinlock.search.ledger import Ledger, read_log
from spinlock.search.moves import Promote, next_move, unpromoted
from spinlock.search.report import settings
from spinlock.search.rules import Stop, decide
from spinlock.search.sampler import Sampler
from spinlock.search.trainable import Trainable

_OWN_STOPS = ("nonfinite", "memory", "early_stopping")  # which the trainer says, and we pass on


@dataclass
class Replay:
    """How much was derived again, and in what it differs from the log."""

    suggestions: int = 0
    reports: int = 0
    promotions: int = 0
    differences: list[str] = field(default_factory=list)


def replay(experiment: Path, trainables: Mapping[str, Trainable]) -> Replay:
    """Derive the decisions of the search in `experiment` again; nothing there is written.

    Suggestions are compared up to the first that differs: those after it rest on it. Raises
    SearchError when there is no search, or none of a trainable that is known here.
    """
    log = read_log(experiment)
    walk = _Walk(trainables)
    for event in log:
        walk.take(event)
    return walk.found


class _Walk:
    """The ledger and the sampler as they were before each event."""

    def __init__(self, trainables: Mapping[str, Trainable]) -> None:
        self.found = Replay()
        self._trainables = trainables
        self._ledger = Ledger()
        self._sampler: Sampler | None = None

    def take(self, event: Event) -> None:
        match event:
            case Suggested():
                self._suggest(event)
            case Reported():
                self._judge(event)
            case Promoted():
                self.found.promotions += 1
                self._move(Promote(event.trial, event.rung))
            case Ended() if event.verdict.rule == "promotion":
                self._conclude(event.trial, event.verdict)
        self._ledger.apply(event)
        match event:
            case StudyOpened():
                self._sampler = Sampler.in_memory(self._ledger)
            case Reported() | Promoted() | Ended():
                if self._sampler is not None:
                    self._sampler.tell(self._ledger.trials[event.trial])
            case SessionOpened() if event.again and self._sampler is not None:
                self._sampler = Sampler.in_memory(self._ledger)  # as the study was made anew

    def _move(self, made: Promote | str) -> None:
        derived = next_move(self._ledger)
        if derived != made:
            self.found.differences.append(f"the log has the move {made}, and derived is {derived}")

    def _conclude(self, number: int, recorded: Verdict) -> None:
        trial = self._ledger.trials[number]
        derived = (
            unpromoted(self._ledger, trial, epochs=self._epochs(number))
            if trial.paused is not None and next_move(self._ledger) == "end"
            else None
        )
        if derived != recorded:
            self.found.differences.append(
                f"trial {number} ended: the log has {_told(recorded)}, and derived is "
                f"{_told(derived)}"
            )

    def _suggest(self, event: Suggested) -> None:
        self._move("new")
        if self._sampler is None:
            return
        self.found.suggestions += 1
        derived = self._sampler.ask(event.trial)
        if derived != event.parameters:
            self._sampler = None
            self.found.differences.append(
                f"trial {event.trial} was suggested as {settings(event.parameters)}, and is "
                f"derived as {settings(derived)}; later suggestions were not compared"
            )

    def _judge(self, event: Reported) -> None:
        recorded = event.verdict
        stop = (
            Stop(recorded.rule, recorded.sentence)
            if recorded is not None and recorded.metric is None and recorded.rule in _OWN_STOPS
            else None
        )
        trial = self._ledger.trials[event.trial]
        derived = decide(
            self._ledger, trial, event.epoch, event.metrics, stop, epochs=self._epochs(event.trial)
        )
        self.found.reports += 1
        for had, found in zip((recorded, event.spared), derived, strict=True):
            if had != found:
                self.found.differences.append(
                    f"trial {event.trial}, epoch {event.epoch}: the log has {_told(had)}, and "
                    f"derived is {_told(found)}"
                )

    def _epochs(self, number: int) -> int:
        opened = self._ledger.opened
        name = opened.trainable if opened is not None else ""
        if name not in self._trainables:
            raise SearchError(f"this search trained a '{name}', which is not known here.")
        values = self._ledger.study.configuration(self._ledger.trials[number].parameters)
        config = parse(self._trainables[name].model, values, where=f"trial {number}")
        return self._trainables[name].reporting(config)[-1]


def _told(verdict: object) -> str:
    return "no verdict" if verdict is None else f"{verdict}"
