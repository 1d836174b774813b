"""What a search will spend, by playing it on recorded runs before anything is trained.

In each game the study's own sampler, scheduler and guards decide, with a seed of its own. What a
trial reports is told by a surrogate that is fitted to the recorded runs, so a sampler that learns
is played as one: it finds better points, and more of them are let on. The first game has the
study's own seed.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from spinlock.config import dotted, parse
from spinlock.search.events import Suggested
from spinlock.search.methods import GP, TPE
from spinlock.search.moves import next_move
from spinlock.search.outlook import beside
from spinlock.search.parameter import Parameter, Scalar
from spinlock.search.recorded import Recorded, Run, shipped
from spinlock.search.rules import Stop
from spinlock.search.simulation import Metrics, Ours, simulate
from spinlock.search.space import NoScheduler, Study
from spinlock.search.trainable import Trainable

_GAMES = 30
_TRIALS = 1500  # played in all, of long searches in fewer games
_TREES = 60
_APART = 0.1  # in the logarithm, as recorded runs of one configuration by two seeds (0.10 in both)

Settings = Mapping[str, Scalar | None]


class Range(NamedTuple):
    """The mean of the games, and the range of nine in ten."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, games: Sequence[float]) -> "Range":
        shares = statistics.quantiles(games, n=20)
        return cls(shares[0], statistics.fmean(games), shares[-1])


@dataclass(frozen=True)
class Forecast:
    """Epochs over all trials, and the seconds of the search by the pace of the recorded runs."""

    epochs: Range
    seconds: Range
    full: int  # epochs of training everything
    surrogate: "_Surrogate"

    def pace(self, settings: Settings) -> float:
        """Seconds of an epoch of such a trial, on the machine of the recorded runs."""
        return statistics.fmean(
            row["seconds"] for row in self.surrogate.run(settings).history.values()
        )

    def wall(self, study: Study, paces: Sequence[tuple[Settings, float]], start: float) -> Range:
        """Seconds of the search where trials of known settings took so long for an epoch.

        A trial starts in `start` seconds.
        """
        here, there = zip(*((pace, self.pace(settings)) for settings, pace in paces), strict=True)
        slower = statistics.fmean(here) / statistics.fmean(there)
        fixed = beside(study.resources, study.trials, start)
        return Range(*(fixed + slower * seconds for seconds in self.seconds))

    def __str__(self) -> str:
        found = self.epochs
        return (
            f"about {found.mean:.0f} of {self.full} epochs ({found.low:.0f} to {found.high:.0f} "
            "in nine of ten games on recorded runs)"
        )


def forecast(study: Study, trainable: Trainable, *, epochs: int) -> Forecast | None:
    """What `study` will train, with its own sampler, scheduler and guards.

    Runs that were recorded for fewer or more epochs are taken slower or faster. None where nothing
    is recorded of what the study compares, or nothing would stop a trial. A Gaussian process, which
    takes seconds for a suggestion, is played as TPE.
    """
    recorded = shipped(trainable.name)
    if recorded is None or (isinstance(study.scheduler, NoScheduler) and not study.guards):
        return None
    if study.budget.hours is not None:  # the games know no clock
        return None
    if not study.needed <= recorded.metrics:
        return None
    surrogate = _Surrogate(recorded, study, trainable, epochs)
    played: dict[str, Any] = {"warm_start": (), "storage": None}
    if isinstance(study.searcher, GP):
        played |= {"searcher": TPE(startup_trials=study.searcher.startup_trials)}
    spent, took = list[float](), list[float]()
    for game in range(max(4, min(_GAMES, _TRIALS // study.trials))):
        seed = int(np.random.SeedSequence([study.seed, game]).generate_state(1)[0])
        mine = study.model_copy(update=played | {"seed": seed if game else study.seed})
        decider = _Game(mine, epochs, surrogate, random.Random(seed))
        workers = study.resources.concurrent or study.resources.at_once_here
        outcome = simulate(decider, decider.pool, study.goals[0], workers=workers)
        spent.append(float(outcome.epochs))
        took.append(outcome.seconds)
    return Forecast(Range.of(spent), Range.of(took), epochs * study.trials, surrogate)


class _Surrogate:
    """What a run of given settings would report, fitted to the recorded ones.

    Extremely randomized trees (Geurts et al., 2006) from the place of a run in the unit cube of
    the recorded space to its whole curve, of which a positive metric is taken by its logarithm. A
    run that is nearest to one which ended itself ends as that did.
    """

    def __init__(self, recorded: Recorded, study: Study, trainable: Trainable, epochs: int) -> None:
        from sklearn.ensemble import ExtraTreesRegressor  # a second, which a forecast alone takes

        first = study.configuration(study.corner)
        every = parse(trainable.model, first, where=study.name).model_dump(mode="json")
        self._fixed, self._space, self._epochs = dotted(every), recorded.space, epochs
        found = [
            (at, _paced(run, epochs, recorded))
            for run in recorded.runs
            if run.seed == 0 and not np.isnan(at := self._place(run.parameters)).any()
        ]
        self._places, self._runs = np.stack([at for at, _ in found]), [run for _, run in found]
        sound = [(at, run.history) for at, run in found if run.stop is None]
        self._metrics = sorted(sound[0][1][1])
        curves = np.array(
            [[[rows[e][m] for m in self._metrics] for e in sorted(rows)] for _, rows in sound]
        )
        self._positive = (curves > 0).all((0, 1))
        curves[..., self._positive] = np.log(curves[..., self._positive])
        self._trees = ExtraTreesRegressor(_TREES, random_state=0)
        self._trees.fit(np.stack([at for at, _ in sound]), curves.reshape(len(sound), -1))

    def run(self, settings: Settings) -> Run:
        """The run of a trial with these settings, the study's own among them."""
        at = self._place({**self._fixed, **settings})
        near = self._runs[int(np.nansum((self._places - at) ** 2, axis=1).argmin())]
        if near.stop is not None:
            return near
        known = np.where(np.isnan(at), 0.5, at)  # of what cannot be compared, the middle
        curve = self._trees.predict(known[None]).reshape(self._epochs, len(self._metrics))
        curve[:, self._positive] = np.exp(curve[:, self._positive])
        history = {
            epoch: dict(zip(self._metrics, row, strict=True))
            for epoch, row in enumerate(curve.tolist(), start=1)
        }
        return replace(near, history=history)

    def _place(self, settings: Settings) -> np.ndarray:
        """Where it lies in the unit cube, or beyond it; NaN where it has no place on a scale."""
        return np.array([_share(p, settings.get(key)) for key, p in self._space.items()])


class _Game(Ours):
    """A search that asks its sampler; `pool` has the run of each trial that has begun."""

    def __init__(
        self, study: Study, epochs: int, surrogate: _Surrogate, chance: random.Random
    ) -> None:
        from spinlock.search.sampler import Sampler  # Optuna, which a forecast alone needs here

        super().__init__(study, epochs)
        self.pool: list[Run] = []
        self._sampler = Sampler.in_memory(self.ledger)
        self._surrogate, self._chance = surrogate, chance
        self._compared = {goal.metric for goal in (*study.goals, *study.compared)}

    def next(self) -> int | None:
        if next_move(self.ledger) != "new":
            trial = super().next()
            if trial is not None:
                self._sampler.tell(self.ledger.trials[trial])
            return trial
        number = len(self.ledger.trials)
        point = self._sampler.ask(number)
        self.ledger.apply(Suggested(time=0, trial=number, parameters=point))
        self.pool.append(self._another(self._surrogate.run(point)))
        return number

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, stop: Stop | None) -> bool:
        goes_on = super().goes_on(trial, epoch, metrics, stop)
        self._sampler.tell(self.ledger.trials[trial])
        return goes_on

    def _another(self, run: Run) -> Run:
        """A run of nearly the same settings: no two of them tie."""
        factor = math.exp(self._chance.gauss(0, _APART))
        history = {
            epoch: {k: v * factor if k in self._compared else v for k, v in row.items()}
            for epoch, row in run.history.items()
        }
        return replace(run, history=history)


def _share(parameter: Parameter, value: Scalar | None) -> float:
    """Where a value lies on a recorded scale, or beyond it; NaN where it has no place there."""
    if parameter.choice is not None:
        return parameter.share(value) if value in parameter.choice else math.nan
    if value is None or isinstance(value, str | bool):
        return math.nan
    lowest = parameter.range[0] if parameter.log_uniform is not None else -math.inf
    return parameter.share(max(value, lowest))


def _paced(run: Run, epochs: int, recorded: Recorded) -> Run:
    """The run at the pace of so many epochs: its last is theirs."""
    last = max(run.history)
    length = epochs if run.stop is None else max(1, round(last * epochs / recorded.epochs))
    history = {
        epoch: run.history[max(1, round(epoch * last / length))] for epoch in range(1, length + 1)
    }
    return replace(run, history=history)
