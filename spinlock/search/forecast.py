"""What a search will spend, by playing it on recorded runs before anything is trained."""

import random
import statistics
from dataclasses import dataclass

from spinlock.search.recorded import Recorded, Run, shipped
from spinlock.search.simulation import Ours, simulate
from spinlock.search.space import NoScheduler, Study
from spinlock.search.trainable import Trainable

_GAMES = 30


@dataclass(frozen=True)
class Forecast:
    """Epochs over all trials: the median game, and the range of nine games in ten."""

    low: int
    median: int
    high: int
    full: int  # of training everything

    def __str__(self) -> str:
        return (
            f"about {self.median} of {self.full} epochs ({self.low} to {self.high} in nine of ten "
            "games on recorded runs)"
        )


def forecast(study: Study, trainable: Trainable, *, epochs: int) -> Forecast | None:
    """How many epochs `study` will train, with its own scheduler and guards.

    Runs that were recorded for fewer or more epochs are taken slower or faster. None where nothing
    is recorded of what the study compares, or nothing would stop a trial.
    """
    recorded = shipped(trainable.name)
    if recorded is None or (isinstance(study.scheduler, NoScheduler) and not study.guards):
        return None
    if study.budget.hours is not None:  # how long an epoch takes is not known
        return None
    if not study.needed <= recorded.metrics:
        return None
    runs = [_paced(run, epochs, recorded) for run in recorded.runs if run.seed == 0]
    spent, workers = [], study.resources.concurrent or 4
    for game in range(_GAMES):
        pool = random.Random(game).choices(runs, k=study.trials)
        decider = Ours(study, epochs)
        spent.append(simulate(decider, pool, study.goals[0], workers=workers).epochs)
    ninths = statistics.quantiles(spent, n=20)
    return Forecast(
        low=round(ninths[0]),
        median=round(statistics.median(spent)),
        high=round(ninths[-1]),
        full=epochs * study.trials,
    )


def _paced(run: Run, epochs: int, recorded: Recorded) -> Run:
    """The run at the pace of so many epochs: its last is theirs."""
    last = max(run.history)
    length = epochs if run.stop is None else max(1, round(last * epochs / recorded.epochs))
    history = {
        epoch: run.history[max(1, round(epoch * last / length))] for epoch in range(1, length + 1)
    }
    return Run(run.configuration, run.seed, run.half, history, run.stop)
