"""How a search chooses the points that it tries: by model, by breeding, or by a plan.

A model or a breeder learns from what it is told; all are Optuna's but CMA-ES (evolution.py). A plan
knows all its points from the start: point `n` is a function of the study's seed, its space and `n`
alone.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.stats import qmc

from spinlock.config import Config
from spinlock.search.parameter import Parameter, Scalar

Space = Mapping[str, Parameter]
_GRID_LIMIT = 1_000_000


class TPE(Config):
    """Tree-structured Parzen estimator; the first `startup_trials` are random."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: int = Field(8, ge=1)
    candidates: int = Field(24, ge=1)
    multivariate: bool = True
    constant_liar: bool = True  # running trials count as bad, so that parallel ones spread out


class GP(Config):
    """Gaussian process with (several objectives: hypervolume) expected improvement.

    It learns from completed trials alone, so it suits few, long trials that run to their end.
    """

    kind: Literal["gp"] = "gp"
    startup_trials: int = Field(10, ge=1)


class NSGA2(Config):
    """Genetic algorithm by non-dominated sorting (Deb et al., 2002), for several objectives.

    Parents are completed trials alone: it does not learn of points that do not fit into memory.
    """

    kind: Literal["nsga2"] = "nsga2"
    population: int = Field(16, ge=2)


class CMAES(Config):
    """Covariance matrix adaptation evolution strategy (Hansen, arXiv 1604.00772), on ranges alone.

    It samples a normal distribution in the unit cube of the settings' own scales, and moves it
    towards the better half of each generation of `population` trials; see evolution.py.
    """

    kind: Literal["cmaes"] = "cmaes"
    population: int | None = Field(None, ge=4)  # None: 4 + 3 ln(settings)
    sigma: float = Field(0.2, gt=0, le=1)  # the first spread, as a share of each range

    def fault(self, space: Space, objectives: int) -> str | None:
        """Why this space or so many objectives cannot be searched so; None if they can."""
        choices = [key for key, parameter in space.items() if parameter.choice is not None]
        if choices:
            return (
                f"cmaes searches ranges, and {' and '.join(choices)} "
                f"{'is a choice' if len(choices) == 1 else 'are choices'}. Take tpe"
            )
        if len(space) < 2:
            return f"cmaes needs two settings, and {next(iter(space))} is the only one. Take tpe"
        if objectives > 1:
            return f"cmaes has one objective, and here are {objectives}. Take tpe or nsga2"
        return None


class Random(Config):
    """Independent draws."""

    kind: Literal["random"] = "random"


class QMC(Config):
    """Scrambled Sobol points: random search without its gaps and clusters."""

    kind: Literal["qmc"] = "qmc"

    def point(self, space: Space, seed: int, number: int) -> dict[str, Scalar]:
        """Point `number`, from 0."""
        sobol = qmc.Sobol(len(space), rng=seed)
        if number:  # scipy cannot go forward by 0
            sobol.fast_forward(number)
        (shares,) = sobol.random(1)
        return {key: p.at(float(u)) for (key, p), u in zip(space.items(), shares, strict=True)}


class Grid(Config):
    """Every combination of the choices and of `steps` values of each range, in shuffled order."""

    kind: Literal["grid"] = "grid"
    steps: int = Field(4, ge=2)

    def size(self, space: Space) -> int:
        """The number of points."""
        return math.prod(len(parameter.ladder(self.steps)) for parameter in space.values())

    def point(self, space: Space, seed: int, number: int) -> dict[str, Scalar]:
        """Point `number`, from 0."""
        ladders = {key: parameter.ladder(self.steps) for key, parameter in space.items()}
        at = np.random.default_rng(seed).permutation(self.size(space))[number]
        places = np.unravel_index(at, [len(ladder) for ladder in ladders.values()])
        return {
            key: ladder[int(i)] for (key, ladder), i in zip(ladders.items(), places, strict=True)
        }

    def fault(self, space: Space, trials: int) -> str | None:
        """Why so many trials cannot be had from this grid; None if they can."""
        size = self.size(space)
        if size > _GRID_LIMIT:
            return f"a grid of {size} points: at most {_GRID_LIMIT}. Lower searcher.steps"
        if trials > size:
            return (
                f"{trials} trials of a grid with {size} points. Lower trials, or raise "
                "searcher.steps"
            )
        return None


Method = Annotated[TPE | GP | NSGA2 | CMAES | Random | QMC | Grid, Field(discriminator="kind")]
