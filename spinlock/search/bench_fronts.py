"""Several objectives at once on recorded runs: how much of the front schedulers keep.

A pool's hypervolume is taken in logarithms of the losses, up to a reference point: the pool's
median, which asks for compromises, or its 90th percentile, which asks for the ends too. A method
keeps the share of it that the runs dominate which it trained to their end. A pool without a run
that is better than the median in everything has none to keep, and is left out there.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from spinlock.search.events import State
from spinlock.search.hypervolume import dominated
from spinlock.search.pareto import Scores, best_epoch
from spinlock.search.recorded import Recorded, Run
from spinlock.search.simulation import Ours, simulate
from spinlock.search.space import Objective, Study

LOSSES = ("val/traj", "val/commit", "val/latent")
REFERENCES = (50, 90)  # percentiles

SCHEDULERS: dict[str, dict[str, Any]] = {
    "ASHA on val/traj": {"kind": "asha", "metric": "val/traj"},
    "promotion by hypervolume, rungs 3, 8, factor 4": {
        "kind": "promotion",
        "rungs": [3, 8],
        "reduction_factor": 4,
    },
    "promotion by hypervolume, rungs 3, 8, factor 2.5": {
        "kind": "promotion",
        "rungs": [3, 8],
        "reduction_factor": 2.5,
    },
}
"""The rungs were chosen on the choosing half: the most at 26 % and at 39 % of the epochs."""


def fronts_kept(recorded: Recorded, given: Sequence[list[Run]], *, jobs: int = 1) -> list[str]:
    """Rows of a table, by method; nothing where the three losses were not recorded."""
    if not recorded.metrics.issuperset(LOSSES):
        return []
    rows = [
        "| method | epochs of all | kept, from the median | from the 90th percentile |",
        "|---|---|---|---|",
    ]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as processes:
        every = {
            name: [processes.submit(_scheduled, pool, recorded, scheduler) for pool in given]
            for name, scheduler in SCHEDULERS.items()
        }
    for name, futures in every.items():
        found = [future.result() for future in futures]
        rows.append(_row(name, found))
        some = [
            _some(pool, round(share * len(pool)), seed)
            for seed, (pool, (share, *_)) in enumerate(zip(given, found, strict=True))
        ]
        if "hypervolume" in name:
            rows.append(_row("as many epochs, some runs to their end", some))
    return rows


def _scheduled(
    pool: Sequence[Run], recorded: Recorded, scheduler: Mapping[str, Any]
) -> tuple[float, ...]:
    """The share of all epochs that is spent, then of the hypervolume, from each reference."""
    study = Study.model_validate(
        {
            "name": "bench",
            "trials": len(pool),
            "objectives": [{"metric": metric} for metric in LOSSES],
            "searcher": {"kind": "random"},
            "scheduler": scheduler,
            "space": {"configuration": {"uniform": [0, 1]}},
        }
    )
    decider = Ours(study, recorded.epochs)
    outcome = simulate(decider, pool, recorded.objective)
    whole = [
        pool[number]
        for number, trial in decider.ledger.trials.items()
        if trial.state() == State.COMPLETED
    ]
    return outcome.epochs / _epochs(pool), *_kept(whole, pool)


def _some(pool: Sequence[Run], count: int, seed: int) -> tuple[float, ...]:
    whole = random.Random(seed).sample(list(pool), count)
    return _epochs(whole) / _epochs(pool), *_kept(whole, pool)


def _kept(whole: Sequence[Run], pool: Sequence[Run]) -> list[float]:
    every = np.log([s for s in map(_scores, pool) if s is not None])
    mine = np.log([s for s in map(_scores, whole) if s is not None]).reshape(-1, len(LOSSES))
    kept = []
    for percentile in REFERENCES:
        reference = np.percentile(every, percentile, axis=0)
        of_all, of_mine = (dominated(points, reference) for points in (every, mine))
        kept.append(of_mine / of_all if of_all else math.nan)
    return kept


def _scores(run: Run) -> Scores | None:
    found = best_epoch(run.history, [Objective(metric=metric) for metric in LOSSES])
    return None if found is None else found[1]


def _epochs(runs: Sequence[Run]) -> int:
    return sum(max(run.history) for run in runs)


def _row(name: str, found: Sequence[tuple[float, ...]]) -> str:
    columns = [[x for x in column if math.isfinite(x)] for column in zip(*found, strict=True)]
    share, *kept = (
        (statistics.fmean(column), 1.96 * statistics.stdev(column) / math.sqrt(len(column)))
        for column in columns
    )
    cells = " | ".join(f"{mean:.2f} ± {error:.2f}" for mean, error in kept)
    return f"| {name} | {share[0]:.1%} | {cells} |"
