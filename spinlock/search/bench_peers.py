"""Other tools' own decision code, as deciders on recorded runs."""

import math
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from spinlock.search.bench import Maker
from spinlock.search.simulation import Decider, InTurn, Metrics
from spinlock.search.space import Objective


@dataclass
class _RayTrial:
    """What Ray's scheduler asks of a trial."""

    trial_id: str


def ray_asha(trials: int, objective: Objective, epochs: int) -> Decider:
    """`ray.tune.schedulers.ASHAScheduler` with a reduction factor of 3."""
    return InTurn(trials, _RayASHA(objective, epochs))


class _RayASHA:
    def __init__(self, objective: Objective, epochs: int) -> None:
        self._metric = objective.metric
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric=objective.metric,
            mode=objective.mode,
            max_t=epochs,
            grace_period=1,
            reduction_factor=3,
        )
        self._trials: dict[int, Any] = {}

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        if trial not in self._trials:
            self._trials[trial] = _RayTrial(str(trial))
            self._scheduler.on_trial_add(None, self._trials[trial])
        result = {"epoch": epoch, self._metric: metrics.get(self._metric, math.nan)}
        told = self._scheduler.on_trial_result(None, self._trials[trial], result)
        return bool(told == TrialScheduler.STOP)


def optuna_pruner(pruner: optuna.pruners.BasePruner) -> Maker:
    """A maker of deciders by one of Optuna's pruners."""

    def make(trials: int, objective: Objective, epochs: int) -> Decider:
        return InTurn(trials, _OptunaPruner(objective, epochs, pruner))

    return make


class _OptunaPruner:
    """A study in memory, its trials begun at their first report."""

    def __init__(
        self, objective: Objective, epochs: int, pruner: optuna.pruners.BasePruner
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._metric, self._epochs = objective.metric, epochs
        direction = StudyDirection.MINIMIZE if objective.mode == "min" else StudyDirection.MAXIMIZE
        self._study = optuna.create_study(direction=direction, pruner=pruner)
        self._trials: dict[int, optuna.Trial] = {}

    def __call__(self, trial: int, epoch: int, metrics: Metrics) -> bool:
        if trial not in self._trials:
            self._trials[trial] = self._study.ask()
        mine, value = self._trials[trial], metrics.get(self._metric, math.nan)
        mine.report(value, epoch)
        if epoch >= self._epochs:
            self._study.tell(mine, None if math.isnan(value) else value, skip_if_finished=True)
            return True
        if mine.should_prune():
            self._study.tell(mine, state=TrialState.PRUNED)
            return True
        return False
