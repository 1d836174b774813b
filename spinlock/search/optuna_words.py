"""What is ours in Optuna's words: settings as distributions, methods as samplers."""

import warnings
from typing import Any, assert_never

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.trial import Trial as OptunaTrial

from spinlock.search.methods import CMAES, GP, NSGA2, QMC, TPE, Grid, Random
from spinlock.search.parameter import Parameter
from spinlock.search.space import Study


def distribution(parameter: Parameter) -> BaseDistribution:
    """A searched setting in Optuna's words."""
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    low, high = parameter.range
    if parameter.int_uniform is not None:
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=parameter.log_uniform is not None)


def suggest(trial: OptunaTrial, key: str, space: BaseDistribution) -> Any:
    """Draw one setting of a trial."""
    match space:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, space.choices)
        case IntDistribution():
            return trial.suggest_int(key, space.low, space.high)
        case FloatDistribution():
            return trial.suggest_float(key, space.low, space.high, log=space.log)
        case _:
            raise TypeError(f"no setting becomes a {type(space).__name__}")


def sampler_of(settings: Study, seed: int) -> optuna.samplers.BaseSampler:
    """The method of a study, drawing from `seed`."""
    method = settings.searcher
    match method:
        case TPE():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # that `group` may change
                return optuna.samplers.TPESampler(
                    n_startup_trials=method.startup_trials,
                    n_ei_candidates=method.candidates,
                    multivariate=method.multivariate,
                    group=method.multivariate and settings.conditional,
                    constant_liar=method.constant_liar,
                    seed=seed,
                )
        case GP():
            return optuna.samplers.GPSampler(
                n_startup_trials=method.startup_trials,
                warn_independent_sampling=not settings.conditional,
                seed=seed,
            )
        case NSGA2():
            return optuna.samplers.NSGAIISampler(population_size=method.population, seed=seed)
        case CMAES() | Random() | QMC() | Grid():  # whose points are given, whatever the sampler
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            assert_never(method)
