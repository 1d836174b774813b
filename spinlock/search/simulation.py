"""Recorded runs as trials of a search: what deciders would have spent on them, and found.

Workers advance in simulated time by the seconds that were recorded, so trials report in the order
in which they would have; nothing is trained.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from spinlock.search.events import Ended, Promoted, Reported, StudyOpened, Suggested
from spinlock.search.ledger import Ledger
from spinlock.search.moves import Promote, next_move, unpromoted
from spinlock.search.recorded import Run
from spinlock.search.rules import Stop, decide
from spinlock.search.space import Objective, Study

Metrics = dict[str, float]


@runtime_checkable
class Decider(Protocol):
    """Decides about trials, numbered from 0 in the order in which they begin."""

    def next(self) -> int | None:
        """The trial that a free worker takes up; None when there is none, or none yet."""

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, stop: Stop | None, /) -> bool:
        """Whether the trial trains on after this report."""


@dataclass(frozen=True)
class Outcome:
    """What a search spent, in epochs and in time, and the best value that it saw."""

    epochs: int
    nonfinite: int  # epochs of them that reported a NaN or an infinity
    best: float
    seconds: float = math.nan  # of the search; not every simulator tells them


class Ours:
    """The search's own ledger, rules and moves, told by events as a search is."""

    def __init__(self, study: Study, epochs: int) -> None:
        self.ledger = Ledger()
        self._epochs = epochs
        dump = study.model_dump(mode="json")
        self.ledger.apply(StudyOpened(time=0, trainable="recorded", study=dump, facts={}))

    def next(self) -> int | None:
        match next_move(self.ledger):
            case Promote(trial, rung):
                self.ledger.apply(Promoted(time=0, trial=trial, rung=rung))
                return trial
            case "new":
                trial = len(self.ledger.trials)
                self.ledger.apply(Suggested(time=0, trial=trial, parameters={}))
                return trial
            case "end":
                for waiting in self.ledger.unfinished:
                    if waiting.paused is not None:
                        verdict = unpromoted(self.ledger, waiting, epochs=self._epochs)
                        self.ledger.apply(Ended(time=0, trial=waiting.number, verdict=verdict))
        return None

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, stop: Stop | None) -> bool:
        found = self.ledger.trials[trial]
        verdict, spared = decide(self.ledger, found, epoch, metrics, stop, epochs=self._epochs)
        self.ledger.apply(
            Reported(
                time=0, trial=trial, epoch=epoch, metrics=metrics, verdict=verdict, spared=spared
            )
        )
        return verdict is None and found.paused is None


class InTurn:
    """Trials from the first to the last, each until `stops` says so of a report."""

    def __init__(self, trials: int, stops: Callable[[int, int, Metrics], bool]) -> None:
        self._left = iter(range(trials))
        self._stops = stops

    def next(self) -> int | None:
        return next(self._left, None)

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, _stop: Stop | None) -> bool:
        return not self._stops(trial, epoch, metrics)


def simulate(
    decider: Decider, pool: Sequence[Run], objective: Objective, *, workers: int = 4
) -> Outcome:
    """The runs of `pool` as trials 0, 1, .. under `decider`, on `workers` workers.

    The decider may add to the pool the run of each trial as it begins.
    """
    done, reports = Counter[int](), dict[int, list[tuple[int, Metrics]]]()
    best, nonfinite, idle, now = math.inf, 0, workers, 0.0
    busy: list[tuple[float, int]] = []

    def take_up() -> None:
        nonlocal idle
        while idle and (trial := decider.next()) is not None:
            reports.setdefault(trial, [*pool[trial].history.items()])
            heapq.heappush(busy, (now + _seconds(reports[trial][done[trial]][1]), trial))
            idle -= 1

    take_up()
    while busy:
        now, trial = heapq.heappop(busy)
        epoch, metrics = reports[trial][done[trial]]
        done[trial] += 1
        last = done[trial] == len(reports[trial])
        value = metrics.get(objective.metric, math.nan)
        if math.isfinite(value):
            best = min(best, objective.cost(value))
        else:
            nonfinite += 1
        stop = pool[trial].stop if last else None
        if decider.goes_on(trial, epoch, metrics, stop) and not last:
            seconds = _seconds(reports[trial][done[trial]][1])
            heapq.heappush(busy, (now + seconds, trial))
        else:
            idle += 1
        take_up()
    return Outcome(done.total(), nonfinite, objective.cost(best), now)


def _seconds(metrics: Metrics) -> float:
    return metrics.get("seconds", 1.0)
