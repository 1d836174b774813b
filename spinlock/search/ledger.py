"""The state of a search, folded from its events."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spinlock.errors import SearchError
from spinlock.search.alone import deserted
from spinlock.search.events import (
    Crashed,
    Ended,
    Event,
    Preempted,
    Prior,
    Promoted,
    Reported,
    SessionClosed,
    SessionOpened,
    Sized,
    Started,
    State,
    StudyOpened,
    Suggested,
    Verdict,
    read_events,
)
from spinlock.search.memory_shown import Shown
from spinlock.search.rung import Rung
from spinlock.search.space import Promotion, Rungs, Study
from spinlock.search.trial import Trial

EVENTS = "events.jsonl"
_ALIKE = 3  # trials in a row that one cause may end before no other is begun
_NUMBER = re.compile(r"0x[0-9a-f]+|\d[\d.]*(e[-+]?\d+)?")


@dataclass
class Session:
    """A stretch of the search under one driver; `closed` is None after a kill."""

    opened: float
    last: float
    closed: str | None = None
    again: tuple[int, ...] = ()  # trials that it took up after they had FAILED


class Ledger:
    """Fold of a log. `rungs[r]` are the compared values of the trials that passed rung r.

    They stand in order of arrival, each from its trial's first report at or after the rung. Only
    healthy trials: one that a guard, a NaN or memory ends is taken out of every rung, so that it
    never again raises the bar for others (Determined's InvalidHP does so). An audited one passes
    no rung after that where it would have ended, so that others are judged as if it had.
    """

    def __init__(self) -> None:
        self.opened: StudyOpened | None = None
        self.trials: dict[int, Trial] = {}
        self.priors: list[Trial] = []  # of earlier searches, with their numbers there
        self.rungs: dict[int, Rung] = {}
        self.memory = Shown()
        self.sessions: list[Session] = []
        self.epochs = 0  # trained, over all trials
        self.given_up: set[int] = set()  # who waited to the end of a search that was then enlarged
        self.broken: str | None = None  # why this session begins no further trial
        self.gone = False  # whether the last session's driver is known to have been killed
        self._unfinished: dict[int, Trial] = {}
        self._alike: list[Trial] = []  # who failed by one cause, and no epoch came between
        self._victims: set[int] = set()  # those of `broken`
        self._cause = ""  # of it
        self._study: Study | None = None

    @property
    def study(self) -> Study:
        if self._study is None:
            raise SearchError("the log does not begin with its study: it is not a search's log.")
        return self._study

    @property
    def unfinished(self) -> list[Trial]:
        """Trials without a verdict, by number."""
        return [*self._unfinished.values()]

    @property
    def under_way(self) -> list[Trial]:
        """Those of them that wait at no rung."""
        return [trial for trial in self.unfinished if trial.paused is None]

    @property
    def live(self) -> bool:
        """Whether a driver is at work, for all that is known."""
        return bool(self.sessions) and self.sessions[-1].closed is None and not self.gone

    @property
    def victims(self) -> list[int]:
        """Trials to be taken up again by a driver that has mended what opened the circuit.

        Who was taken up before and has trained no epoch since is none: it would stand before the
        others for ever.
        """
        return sorted(n for n in self._victims if not self.trials[n].tried_again)

    @property
    def left(self) -> int:
        """How many trials may yet begin: none once the budget is spent."""
        return 0 if self.spent else max(0, self.study.trials - len(self.trials))

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: who waits at a rung waits for more of a spent budget."""
        waiting = self.under_way if self.spent else self.unfinished
        return self.broken is None and not self.left and not waiting

    @property
    def spent(self) -> str | None:
        """What of the budget is spent, in words; None while there is some left."""
        budget = self.study.budget
        if budget.epochs is not None and self.epochs >= budget.epochs:
            return f"{self.epochs} epochs of {budget.epochs}"
        if budget.hours is not None:
            hours = sum(session.last - session.opened for session in self.sessions) / 3600
            if hours >= budget.hours:
                return f"{hours:.2f} hours of {budget.hours:g}"
        return None

    def apply(self, event: Event) -> None:
        """Take one event in. An event that cannot follow is an error: the log is not ours."""
        match event:
            case StudyOpened():
                self.opened = event
                self._study = Study.model_validate(event.study)
            case Prior():
                if self.trials:
                    raise SearchError("a prior cannot follow a trial.")
                self.priors.append(
                    Trial(
                        event.trial,
                        dict(event.parameters),
                        event.time,
                        history=event.history,
                        verdict=event.verdict,
                        source=event.source,
                    )
                )
            case SessionOpened():
                if self.sessions and event.trials > self.study.trials:
                    self.given_up = {
                        number
                        for number, trial in self.trials.items()
                        if trial.verdict is not None and trial.verdict.rule == "promotion"
                    }
                changed = {"trials": event.trials, "budget": event.budget}
                self._study = self.study.model_copy(update=changed)
                # Whoever resumes has mended the cause.
                self.broken, self._alike, self._victims = None, [], set()
                for number in event.again:
                    self._reopen(self._trial(number))
                self.gone = False
                self.sessions.append(Session(event.time, event.time, again=event.again))
            case Suggested():
                if event.trial != len(self.trials):
                    raise SearchError(f"trial {event.trial} follows {len(self.trials)} trials.")
                trial = Trial(event.trial, dict(event.parameters), event.time)
                self.trials[event.trial] = self._unfinished[event.trial] = trial
            case Started():
                trial = self._trial(event.trial)
                trial.attempts, trial.displaced = event.attempt, False
                trial.started = event.time if trial.started is None else trial.started
                trial.held = trial.predicted
            case Sized():
                trial = self._trial(event.trial)
                trial.sizing, trial.micro_batch = event.sizing, event.sizing.micro_batch
                trial.held = trial.predicted
            case Crashed():
                trial = self._trial(event.trial)
                trial.crashes.append(event.reason)
                if event.memory:
                    self._kill(trial)
            case Preempted():
                trial = self._trial(event.trial)
                trial.preemptions.append((trial.epochs, event.reason))
                trial.displaced = True
            case Promoted():
                self._promote(self._trial(event.trial), event.rung)
            case Reported():
                self._report(event)
            case Ended():
                trial = self._trial(event.trial)
                if trial.verdict is not None:
                    raise SearchError(f"trial {event.trial} ends twice.")
                self._end(trial, event.verdict, event.time)
            case SessionClosed():
                if self.sessions:
                    self.sessions[-1].closed = event.reason
        if self.sessions:
            self.sessions[-1].last = event.time

    def _report(self, event: Reported) -> None:
        trial = self._trial(event.trial)
        if trial.verdict is not None or event.epoch <= trial.epochs:
            raise SearchError(
                f"epoch {event.epoch} of trial {event.trial} cannot follow {trial.epochs} epochs."
            )
        if trial.paused is not None:
            raise SearchError(
                f"trial {event.trial}, which waits at rung {trial.paused}, cannot report."
            )
        scheduler, compared = self.study.scheduler, self.study.compared
        if isinstance(scheduler, Rungs) and compared and trial.spared is None:
            rung = scheduler.passed(after=trial.epochs, epoch=event.epoch)
            values = tuple(event.metrics.get(goal.metric, math.nan) for goal in compared)
            if rung is not None and all(map(math.isfinite, values)):
                self.rungs.setdefault(rung, Rung(compared)).add(event.trial, values)
                goes_on = event.verdict is None and event.spared is None
                if isinstance(scheduler, Promotion) and goes_on:
                    trial.paused = rung
        if event.verdict is None or event.verdict.state != State.FAILED:
            self._alike = []
        self.epochs += event.epoch - trial.epochs
        trial.history[event.epoch] = event.metrics
        trial.beside = False
        self.memory.epoch(trial, event.metrics)
        if trial.micro_batch is not None and "micro_batch" in event.metrics:  # smaller did not fit
            trial.micro_batch = min(trial.micro_batch, int(event.metrics["micro_batch"]))
        trial.reported = event.time if trial.reported is None else trial.reported
        if event.spared is not None:
            trial.spared = event.spared
            self._leave_rungs(trial, event.spared)
        if event.verdict is not None:
            self._end(trial, event.verdict, event.time)

    def _kill(self, trial: Trial) -> None:
        """A memory monitor killed the trial: it goes on with half its micro-batch, or with 1.

        Of those that train at once the largest is to blame, and a monitor may kill several. So a
        smaller one goes on as it was, once until it reports again.
        """
        trial.killed += 1
        largest = max(
            (other for other in self.under_way if other.attempts or other is trial),
            key=lambda other: (other.held, other.number),
        )
        if trial is not largest and not trial.beside:
            trial.beside = True
            return
        trial.beside = False
        self.memory.failure(trial)
        trial.too_large = trial.micro_batch == 1 and trial.sizing is not None
        trial.micro_batch = 1 if trial.micro_batch is None else max(1, trial.micro_batch // 2)

    def _promote(self, trial: Trial, rung: int) -> None:
        if trial.paused != rung:
            raise SearchError(f"trial {trial.number} does not wait at rung {rung}.")
        trial.paused = None

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise SearchError(f"trial {number} was never suggested: the log has lost a line.")
        return self.trials[number]

    def _end(self, trial: Trial, verdict: Verdict, time: float) -> None:
        trial.verdict, trial.ended, trial.paused = verdict, time, None
        trial.spent = self.epochs
        del self._unfinished[trial.number]
        self._leave_rungs(trial, verdict)
        if verdict.state == State.FAILED:
            self._break(trial, verdict.sentence)

    def _reopen(self, trial: Trial) -> None:
        """Take back the end of a trial that failed by no fault of its own."""
        trial.verdict, trial.ended, trial.spent = None, None, 0
        trial.forgiven = len(trial.crashes) - trial.killed
        trial.reopened = len(trial.crashes), trial.epochs
        self._unfinished = dict(sorted({**self._unfinished, trial.number: trial}.items()))

    def _break(self, trial: Trial, cause: str) -> None:
        """Open the circuit when one cause ends trial after trial: it is no fault of theirs.

        Causes are alike but for their numbers, which are of the trial, its paths and settings.
        """
        alike = _NUMBER.sub("", cause)
        last = self._alike[-1].verdict if self._alike else None
        if last is not None and _NUMBER.sub("", last.sentence) != alike:
            self._alike = []
        self._alike.append(trial)
        if self.broken is not None:
            self._victims |= {trial.number} if alike == self._cause else set()
        elif len(self._alike) >= _ALIKE:
            self._cause, self._victims = alike, {each.number for each in self._alike}
            numbers = ", ".join(str(each.number) for each in self._alike)
            self.broken = (
                f"trials {numbers} failed one after the other by the same cause, and no epoch was "
                f"trained between: {cause.rstrip('.')}. No further trial is begun."
            )

    def _leave_rungs(self, trial: Trial, verdict: Verdict) -> None:
        if verdict.state in (State.GUARDED, State.INFEASIBLE):
            for rung in self.rungs.values():
                rung.discard(trial.number)


def fold(events: Iterable[Event]) -> Ledger:
    """The ledger after `events`."""
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger


def read_ledger(experiment: Path) -> Ledger:
    """The ledger of an experiment directory, whether it is running, ended or was killed."""
    gone = deserted(experiment)
    ledger = fold(read_log(experiment))
    ledger.gone = gone and deserted(experiment)  # nor was the log written meanwhile
    return ledger


def read_log(experiment: Path) -> Iterable[Event]:
    """The events of an experiment directory. Raises SearchError where no search stands."""
    path = experiment / EVENTS
    if not path.is_file():
        raise SearchError(f"{experiment}: no search has run here: there is no {EVENTS} in it.")
    return read_events(path)
