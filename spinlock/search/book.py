"""The search's book: the only hand that writes the log, and the ledger that it folds into.

Scheduler, searcher and tables all act on this one object in the driver. Everything here is
idempotent by (trial, epoch): what a restarted trial tells again changes nothing.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinlock.config import dotted
from spinlock.errors import SearchError
from spinlock.search.events import (
    Crashed,
    Ended,
    Event,
    EventLog,
    Preempted,
    Prior,
    Promoted,
    Reported,
    SessionClosed,
    SessionOpened,
    Sized,
    Sizing,
    Started,
    State,
    StudyOpened,
    Suggested,
    Verdict,
)
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.moves import unpromoted
from spinlock.search.parameter import Scalar
from spinlock.search.rules import Stop, decide, give_up
from spinlock.search.space import Study
from spinlock.search.trial import Trial

Listener = Callable[[Event, Ledger], None]
Reporting = Callable[[Trial], Sequence[int]]
"""The epochs after which a trial reports when nothing ends it, in order."""
# What may change between the sessions of one search: nothing that a decision depends on.
_FREE = ("trials", "budget.", "retries", "resources.", "storage")


class Book:
    """Log and ledger of one experiment directory. Pickles without its listeners."""

    def __init__(
        self, experiment: Path, ledger: Ledger, reporting: Reporting, *, retries: int
    ) -> None:
        self.experiment = experiment
        self.ledger = ledger
        self.listeners: list[Listener] = []
        self._reporting, self._retries = reporting, retries
        self._log = EventLog(experiment / EVENTS)

    @classmethod
    def open(
        cls,
        experiment: Path,
        study: Study,
        *,
        trainable: str,
        facts: Mapping[str, Any],
        reporting: Reporting,
        resume: bool,
        priors: Callable[[], Sequence[Prior]] = tuple,
    ) -> "Book":
        """Begin a search in `experiment`, or take it up again.

        `priors` are asked for where it begins. A log without a session was cut off in the midst of
        them, and is begun anew. Raises SearchError when there is a search and `resume` is not asked
        for, or when the study or what it stands on differs from what was begun.
        """
        ledger = read_ledger(experiment) if (experiment / EVENTS).is_file() else Ledger()
        if ledger.sessions or ledger.trials:
            if not resume:
                raise SearchError(
                    f"{experiment}: a search of {len(ledger.trials)} trials stands here. "
                    "Add --resume to go on with it, or choose another --experiment."
                )
            _refuse_changes(experiment, ledger, study, trainable, facts)
            book = cls(experiment, ledger, reporting, retries=study.retries)
        else:
            known = priors()
            experiment.mkdir(parents=True, exist_ok=True)
            (experiment / EVENTS).unlink(missing_ok=True)
            book = cls(experiment, Ledger(), reporting, retries=study.retries)
            dump = study.model_dump(mode="json")
            book._write(
                StudyOpened(time=time.time(), trainable=trainable, study=dump, facts=dict(facts))
            )
            for prior in known:
                book._write(prior)
        book._write(
            SessionOpened(
                time=time.time(),
                host=socket.gethostname(),
                pid=os.getpid(),
                trials=study.trials,
                budget=study.budget,
                again=tuple(book.ledger.victims),
            )
        )
        return book

    def suggested(self, parameters: Mapping[str, Scalar]) -> Trial:
        """Enter a new trial; its number counts from 0 without gaps."""
        number = len(self.ledger.trials)
        self._write(Suggested(time=time.time(), trial=number, parameters=dict(parameters)))
        return self.ledger.trials[number]

    def started(self, number: int) -> None:
        """A process has taken the trial up."""
        attempt = self.ledger.trials[number].attempts + 1
        self._write(Started(time=time.time(), trial=number, attempt=attempt))

    def sized(self, number: int, sizing: Sizing) -> None:
        """The trial's process has chosen its micro-batch."""
        self._write(Sized(time=time.time(), trial=number, sizing=sizing))

    def crashed(self, number: int, reason: str, *, memory: bool = False) -> None:
        """An attempt has failed, with `memory` by a memory monitor's kill; the last ends the trial.

        Whether another follows is seen by its verdict. A process that dies when its trial has
        ended, or waits at a rung, takes nothing with it.
        """
        trial = self.ledger.trials[number]
        if trial.verdict is not None or trial.paused is not None:
            return
        self._write(Crashed(time=time.time(), trial=number, reason=reason, memory=memory))
        verdict = give_up(trial, retries=self._retries)
        if verdict is not None:
            self._end(number, verdict)

    def preempted(self, number: int, reason: str) -> None:
        """An attempt has left a machine that goes; Tune starts another elsewhere."""
        self._write(Preempted(time=time.time(), trial=number, reason=reason))

    def promote(self, number: int, rung: int) -> Trial:
        """A trial that waits at `rung` goes on."""
        self._write(Promoted(time=time.time(), trial=number, rung=rung))
        return self.ledger.trials[number]

    def conclude(self) -> list[int]:
        """End the trials that wait at a rung: nobody will take them up. Their numbers.

        None once the budget is spent, or the circuit broken: they go on at a resume.
        """
        if self.ledger.spent is not None or self.ledger.broken is not None:
            return []
        waiting = [trial for trial in self.ledger.unfinished if trial.paused is not None]
        for trial in waiting:
            last = self._reporting(trial)[-1]
            self._end(trial.number, unpromoted(self.ledger, trial, epochs=last))
        return [trial.number for trial in waiting]

    def report(
        self, number: int, epoch: int, metrics: Mapping[str, float], stop: Stop | None
    ) -> Verdict | None:
        """Judge and record a report; the verdict on the trial, if it has one by now.

        An epoch that is already in the book, or that comes after the verdict, is passed over.
        One that is not the next due fails the trial, since a report was lost; a stop may come
        before the next is due.
        """
        trial = self.ledger.trials[number]
        if trial.verdict is not None or epoch <= trial.epochs:
            return trial.verdict
        reporting = self._reporting(trial)
        due = next((e for e in reporting if e > trial.epochs), reporting[-1])
        if epoch > due or (epoch < due and stop is None):
            self.fail(
                number,
                f"epoch {epoch} was reported after epoch {trial.epochs}, and {due} was due",
            )
            return trial.verdict
        verdict, spared = decide(self.ledger, trial, epoch, metrics, stop, epochs=reporting[-1])
        self._write(
            Reported(
                time=time.time(),
                trial=number,
                epoch=epoch,
                metrics=dict(metrics),
                verdict=verdict,
                spared=spared,
            )
        )
        return verdict

    def fail(self, number: int, sentence: str) -> None:
        """Give the trial up, unless it has its verdict already."""
        self._end(number, Verdict(state=State.FAILED, rule="failed", sentence=sentence))

    def reject(self, number: int, sentence: str) -> None:
        """End a trial whose parameters make no valid configuration together."""
        self._end(number, Verdict(state=State.INFEASIBLE, rule="invalid", sentence=sentence))

    def _end(self, number: int, verdict: Verdict) -> None:
        if self.ledger.trials[number].verdict is None:
            self._write(Ended(time=time.time(), trial=number, verdict=verdict))

    def close(self) -> None:
        """End this session in good order."""
        done = self.ledger.done
        self._write(SessionClosed(time=time.time(), reason="finished" if done else "interrupted"))
        self._log.close()

    def _write(self, event: Event) -> None:
        self._log.append(event)
        self.ledger.apply(event)
        for listener in self.listeners:
            listener(event, self.ledger)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"listeners": []}


def _refuse_changes(
    experiment: Path, ledger: Ledger, study: Study, trainable: str, facts: Mapping[str, Any]
) -> None:
    opened = ledger.opened
    if opened is None:
        raise TypeError("a ledger without its study has nothing to compare")
    # Read back, so that keys which a newer version has added stand with their defaults.
    then = Study.model_validate(opened.study)
    before = dotted({"trainable": opened.trainable, **_settings(then), "facts": opened.facts})
    now = dotted({"trainable": trainable, **_settings(study), "facts": dict(facts)})
    changed = [
        f"  {key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and not key.startswith(_FREE)
    ]
    if changed:
        raise SearchError(
            f"{experiment}: this search was begun with another study:\n"
            + "\n".join(changed)
            + "\nPut these back, or begin anew under another --experiment. Only trials, budget, "
            "retries, resources and storage may change."
        )
    asked = study.trials
    if asked < len(ledger.trials):
        raise SearchError(
            f"{experiment}: {len(ledger.trials)} trials have begun, more than the {asked} asked "
            "for now. Ask for as many or more."
        )


def _settings(study: Study) -> dict[str, Any]:
    """A study's keys, its objectives in one form whether the file gave one, several or none."""
    goals = [goal.model_dump() for goal in study.goals]
    guards = [guard.model_dump(exclude={"force"}) for guard in study.guards]
    return study.model_dump(mode="json", exclude={"objective", "objectives"}) | {
        "guards": guards,
        "objective": goals[0] if len(goals) == 1 else goals,
    }
