"""How a search chooses the points that it tries: by model, by breeding, or by a plan.

A model or a breeder learns from what it is told; all are Optuna's but CMA-ES (evolution.py). A plan
knows all its points from the start: point `n` is a function of the study's seed, its space and `n`
alone.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from spinlock.config import Config
from spinlock.search.conditions import Space, ordered, settled
from spinlock.search.parameter import Scalar

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
        depends = [key for key, parameter in space.items() if parameter.when]
        if depends:
            return f"cmaes searches every setting in every trial: {depends[0]} has a when. Take tpe"
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
        from scipy.stats import qmc  # half a second, which a trial's process does not need

        sobol = qmc.Sobol(len(space), rng=seed)
        if number:  # scipy cannot go forward by 0
            sobol.fast_forward(number)
        (shares,) = sobol.random(1)
        return settled(
            space, {key: p.at(float(u)) for (key, p), u in zip(space.items(), shares, strict=True)}
        )


class Grid(Config):
    """Every combination of the choices and of `steps` values of each range, in shuffled order.

    Of settings that are searched under a condition only where it holds, so no point comes twice.
    """

    kind: Literal["grid"] = "grid"
    steps: int = Field(4, ge=2)

    def size(self, space: Space) -> int:
        """The number of points."""
        return _Tree(space, self.steps).count(0, {})

    def point(self, space: Space, seed: int, number: int) -> dict[str, Scalar]:
        """Point `number`, from 0."""
        tree = _Tree(space, self.steps)
        at = np.random.default_rng(seed).permutation(tree.count(0, {}))[number]
        return tree.point(int(at))

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


class _Tree:
    """A grid, one setting below the other: it branches where the setting is searched."""

    def __init__(self, space: Space, steps: int) -> None:
        self._space, self._keys = space, ordered(space)
        self._ladders = {key: parameter.ladder(steps) for key, parameter in space.items()}
        # How many points are below depends on the parents of what is still to come alone.
        self._parents = [
            sorted({parent for child in self._keys[depth:] for parent in space[child].when or ()})
            for depth in range(len(self._keys) + 1)
        ]
        self._counts: dict[tuple[str, ...], int] = {}

    def count(self, depth: int, chosen: dict[str, Scalar]) -> int:
        """The number of points that have `chosen`, the settings above `depth`."""
        if depth == len(self._keys):
            return 1
        state = (str(depth), *(repr(chosen.get(parent)) for parent in self._parents[depth]))
        if state not in self._counts:
            branches = self._branches(depth, chosen)
            self._counts[state] = sum(self.count(depth + 1, branch) for branch in branches)
        return self._counts[state]

    def point(self, at: int) -> dict[str, Scalar]:
        """Point `at` from the left, from 0."""
        chosen: dict[str, Scalar] = {}
        for depth in range(len(self._keys)):
            for branch in self._branches(depth, chosen):
                below = self.count(depth + 1, branch)
                if at < below:
                    chosen = branch
                    break
                at -= below
        return {key: chosen[key] for key in self._space if key in chosen}

    def _branches(self, depth: int, chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        key = self._keys[depth]
        if not self._space[key].active(chosen):
            yield chosen
            return
        for value in self._ladders[key]:
            yield chosen | {key: value}
