"""Schedulers side by side on recorded runs: what each spends, and how near it comes to the best.

Every scheduler decides with its own code: ours with the search's rules and moves, Ray's and
Optuna's with theirs. All get the same pools of runs in the same order.
"""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from scipy.stats import binomtest

from spinlock.search.recorded import Recorded, Run
from spinlock.search.rules import Stop
from spinlock.search.simulation import Decider, InTurn, Metrics, Ours, Outcome, simulate
from spinlock.search.space import Objective, Promotion, Study

WITHIN = 0.02  # of the pool's best is found
Maker = Callable[[int, Objective, int], Decider]
"""A decider over so many trials of an objective, each of so many epochs."""
Method = Callable[[Sequence[Run], Recorded, int], Outcome]
"""What becomes of a pool of runs, with a seed for what is random."""


@dataclass(frozen=True)
class Row:
    """One method over all pools. `regret` is the mean relative distance to the pool's best."""

    method: str
    epochs: float
    share: float  # of training everything
    hits: int
    pools: int
    regret: float
    regret_error: float  # standard error of the mean
    nonfinite: float

    @property
    def hit(self) -> float:
        """The share of pools in which it came within 2 % of the best."""
        return self.hits / self.pools

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for that share (Clopper, Pearson)."""
        found = binomtest(self.hits, self.pools).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)


def ours(scheduler: Mapping[str, Any], guards: Sequence[Mapping[str, Any]] = ()) -> Maker:
    """The search's own decisions with this scheduler and these guards."""

    def make(trials: int, objective: Objective, epochs: int) -> Decider:
        study = Study.model_validate(
            {
                "name": "bench",
                "trials": trials,
                "objective": objective.model_dump(),
                "searcher": {"kind": "random"},
                "scheduler": scheduler,
                "guards": guards,
                "space": {"configuration": {"uniform": [0, 1]}},
            }
        )
        return Ours(study, epochs)

    return make


def everything(trials: int, _objective: Objective, _epochs: int) -> Decider:
    """Every trial to its end."""
    return InTurn(trials, lambda *_: False)


def one_epoch_then_three(trials: int, objective: Objective, _epochs: int) -> Decider:
    """One epoch of each; then the best three to their end (Egele et al., arXiv 2404.04111)."""
    return _OneEpochThenThree(trials, objective)


class _OneEpochThenThree:
    def __init__(self, trials: int, objective: Objective) -> None:
        self._trials, self._objective = trials, objective
        self._fresh = iter(range(trials))
        self._first: dict[int, float] = {}
        self._finalists: list[int] | None = None

    def next(self) -> int | None:
        trial = next(self._fresh, None)
        if trial is not None or len(self._first) < self._trials:
            return trial
        if self._finalists is None:
            self._finalists = sorted(self._first, key=self._first.__getitem__)[:3]
        return self._finalists.pop(0) if self._finalists else None

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, _stop: Stop | None) -> bool:
        if epoch == 1:
            value = self._objective.cost(metrics.get(self._objective.metric, math.nan))
            self._first[trial] = value if math.isfinite(value) else math.inf
        return epoch > 1


def by(make: Maker) -> Method:
    """The method whose decisions are those of `make`, on four workers."""

    def method(pool: Sequence[Run], recorded: Recorded, _seed: int) -> Outcome:
        decider = make(len(pool), recorded.objective, recorded.epochs)
        return simulate(decider, pool, recorded.objective)

    return method


def pools(runs: Sequence[Run], size: int, seeds: int) -> list[list[Run]]:
    """For each seed so many runs, in the order in which they begin."""
    return [random.Random(seed).sample(list(runs), size) for seed in range(seeds)]


def measure(
    methods: Mapping[str, Method],
    given: Sequence[list[Run]],
    recorded: Recorded,
    *,
    jobs: int = 1,
) -> list[Row]:
    """Every method on the same pools, `jobs` pieces at a time, in forks: methods are functions."""
    global _shared
    _shared = methods, given, recorded
    pieces = [
        (name, range(first, min(first + _PIECE, len(given))))
        for name in methods
        for first in range(0, len(given), _PIECE)
    ]
    found: dict[str, list[Outcome]] = {name: [] for name in methods}
    if jobs == 1:
        done = [_piece(piece) for piece in pieces]
    else:
        with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
            done = list(pool.map(_piece, pieces))
    for (name, _), outcomes in zip(pieces, done, strict=True):
        found[name] += outcomes
    return [_row(name, outcomes, given, recorded) for name, outcomes in found.items()]


_PIECE = 10  # pools
_shared: tuple[Mapping[str, Method], Sequence[list[Run]], Recorded] | None = None


def _piece(piece: tuple[str, range]) -> list[Outcome]:
    if _shared is None:
        raise RuntimeError("called from without measure")
    (name, part), (methods, given, recorded) = piece, _shared
    return [methods[name](given[seed], recorded, seed) for seed in part]


def _row(
    name: str, outcomes: Sequence[Outcome], given: Sequence[list[Run]], recorded: Recorded
) -> Row:
    goal, regrets = recorded.objective, list[float]()
    for pool, found in zip(given, outcomes, strict=True):
        best = min((run.best(goal) for run in pool), key=goal.cost)
        regrets.append(abs(found.best - best) / abs(best))
    epochs = statistics.fmean(outcome.epochs for outcome in outcomes)
    full = statistics.fmean(sum(max(run.history) for run in pool) for pool in given)
    return Row(
        method=name,
        epochs=epochs,
        share=epochs / full,
        hits=sum(regret <= WITHIN for regret in regrets),
        pools=len(given),
        regret=statistics.fmean(regrets),
        regret_error=statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else 0.0,
        nonfinite=statistics.fmean(outcome.nonfinite for outcome in outcomes),
    )


CANDIDATES = tuple(
    Promotion(rungs=rungs, reduction_factor=factor)
    for rungs in ((1, 3, 9), (2, 6, 18), (1, 6, 18), (1, 4, 12), (2, 8), (3, 9), (2, 5, 11, 19))
    for factor in (2.0, 2.5, 3.0, 4.0)
)


def choose_rungs(
    recorded: Recorded, *, seeds: int = 100, size: int = 64, least: float = 0.95, jobs: int = 1
) -> Promotion:
    """The cheapest candidate that finds the best in a share `least` of pools of the choosing half.

    If none does, the one that finds it most often. Rungs are in epochs of the recorded runs.
    """
    given = pools(recorded.half("choose"), size, seeds)
    every = {str(index): by(ours(c.model_dump())) for index, c in enumerate(CANDIDATES)}
    rows = measure(every, given, recorded, jobs=jobs)
    good = [(row.epochs, index) for index, row in enumerate(rows) if row.hit >= least]
    if good:
        return CANDIDATES[min(good)[1]]
    return CANDIDATES[min(range(len(rows)), key=lambda i: (-rows[i].hit, rows[i].epochs))]
