"""A search that knows an earlier one against a cold one, on recorded runs.

    python benchmarks/warm_start.py [--pools 50] [--jobs 2]

A search of TPE and ASHA over a pool of runs of the testing half, four workers in simulated time.
Each suggestion is taken to the nearest unused configuration of the pool, by distance in the unit
cube of the settings' own scales, and the sampler is told of that one's parameters. Counted are the
epochs trained until one report is within 2 % of the pool's best. Warm are the same searches with
priors of the choosing half: all of its runs to their end, or what such a search over a pool of it
had seen. Every search is by ASHA as it is, and with its first trial let to its end. Writes
benchmarks/results/warm_start.md.
"""

import json
import math
import os
import platform
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from spinlock.artifact import provenance
from spinlock.files import atomic_file
from spinlock.search.bench import WITHIN, pools
from spinlock.search.events import Prior, State, Suggested, Verdict
from spinlock.search.ledger import Ledger
from spinlock.search.moves import next_move
from spinlock.search.parameter import Scalar
from spinlock.search.ranking import TRIED_FIRST
from spinlock.search.recorded import Recorded, Run, read_recorded
from spinlock.search.rules import Stop
from spinlock.search.sampler import Sampler
from spinlock.search.simulation import Metrics, Ours, simulate
from spinlock.search.space import Study

CURVES, RESULT = Path(__file__).parent / "curves", Path(__file__).parent / "results/warm_start.md"
NAMES = {"noa": "NOA", "vqvae": "VQ-VAE"}
SCHEDULERS = {"ASHA": 0, "ASHA, `spare: 1`": 1}
METHODS = ("random points", "cold", "warm: all runs", "warm: a search")
GOAL, SIZE = 0.6, 64


@dataclass(frozen=True)
class Outcome:
    """Epochs until the pool's best was found within 2 %, or all that were spent in vain.

    The `tried`-th trial was the first that would have shown it, had it been let to its end.
    """

    epochs: int
    found: bool
    tried: int


def main(
    given: Annotated[int, typer.Option("--pools", min=10, help="How many.")] = 50,
    jobs: Annotated[int, typer.Option(min=1, help="Searches at a time.")] = 2,
) -> None:
    pieces = list(product(NAMES, SCHEDULERS, METHODS, range(given)))
    with ProcessPoolExecutor(jobs, get_context("forkserver")) as workers:
        done = dict(zip(pieces, workers.map(outcome, *zip(*pieces, strict=True)), strict=True))
    text = page(
        {
            name: {
                (scheduler, method): [done[name, scheduler, method, seed] for seed in range(given)]
                for scheduler, method in product(SCHEDULERS, METHODS)
            }
            for name in NAMES
        }
    )
    with atomic_file(RESULT) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def outcome(name: str, scheduler: str, method: str, seed: int) -> Outcome:
    """One search over the pool of this seed."""
    runs = Runs.read(name)
    pool = pools(runs.half("test"), SIZE, seed + 1)[seed]
    priors: Sequence[Prior] = ()
    if method == "warm: all runs":
        priors = [runs.prior(run) for run in runs.half("choose")]
    elif method == "warm: a search":
        before = pools(runs.half("choose"), SIZE, seed + 1)[seed]
        earlier = Searching(runs, before, kind="tpe", seed=1000 + seed, until=-np.inf)
        simulate(earlier, before, runs.recorded.objective)
        priors = list(seen(earlier.ledger))
    best = min(runs.cost(run) for run in pool)
    search = Searching(
        runs,
        pool,
        kind="random" if method == "random points" else "tpe",
        seed=seed,
        until=best + WITHIN * abs(best),
        spare=SCHEDULERS[scheduler],
        priors=priors,
    )
    simulate(search, pool, runs.recorded.objective)
    good = [i for i, run in enumerate(pool) if runs.cost(run) <= best + WITHIN * abs(best)]
    return Outcome(search.epochs, search.found, search.tried(good))


@dataclass(frozen=True)
class Runs:
    """Recorded runs with their parameters: those that are points of the recorded space."""

    recorded: Recorded
    study: Study
    points: Mapping[int, dict[str, Scalar]]  # by configuration

    @classmethod
    @cache
    def read(cls, name: str) -> "Runs":
        recorded = read_recorded(CURVES / f"{name}.parquet")
        study = Study.model_validate(json.loads(recorded.facts["study"]))
        points = {
            run.configuration: run.parameters
            for run in recorded.runs
            if run.configuration < study.trials  # the others are beyond the space
        }
        return cls(recorded, study, points)

    def half(self, name: str) -> list[Run]:
        return [run for run in self.recorded.half(name) if run.configuration in self.points]

    def cost(self, run: Run) -> float:
        return self.recorded.objective.cost(run.best(self.recorded.objective))

    def shares(self, point: Mapping[str, Scalar]) -> np.ndarray:
        return np.array([p.share(point[key]) for key, p in self.study.space.items()])

    def prior(self, run: Run) -> Prior:
        """The run as a trial of a search that let each run to its end."""
        state = State.COMPLETED if run.stop is None else State.INFEASIBLE
        rule = "completed" if run.stop is None else run.stop.kind
        return Prior(
            time=0,
            source="recorded",
            trial=run.configuration,
            parameters=self.points[run.configuration],
            history=run.history,
            verdict=Verdict(state=state, rule=rule, sentence=""),
        )


class Searching:
    """The search's own sampler, ledger and rules over a pool, until a report costs `until`."""

    def __init__(
        self,
        runs: Runs,
        pool: Sequence[Run],
        *,
        kind: str,
        seed: int,
        until: float,
        spare: int = 0,
        priors: Sequence[Prior] = (),
    ) -> None:
        study = runs.study.model_dump() | {
            "seed": seed,
            "trials": len(pool),
            "searcher": {"kind": kind},
            "scheduler": {"kind": "asha", "spare": spare},
        }
        self._goal, self._until = runs.recorded.objective, until
        self._ours = Ours(Study.model_validate(study), runs.recorded.epochs)
        self.ledger = self._ours.ledger
        for prior in priors:
            self.ledger.apply(prior)
        self._points = [runs.points[run.configuration] for run in pool]
        self._shares = np.array([runs.shares(point) for point in self._points])
        self._to_shares = runs.shares
        self._numbers: dict[int, int] = {}  # of the trial that each configuration became
        self.epochs, self.found = 0, False

    def tried(self, places: Sequence[int]) -> int:
        """The trial, from 1, that was the first of these configurations."""
        return 1 + min(self._numbers[place] for place in places if place in self._numbers)

    def next(self) -> int | None:
        if self.found or next_move(self.ledger) != "new":
            return None
        number = len(self.ledger.trials)
        wanted = self._to_shares(Sampler.in_memory(self.ledger).ask(number))
        away = np.linalg.norm(self._shares - wanted, axis=1)
        away[[*self._numbers]] = np.inf
        nearest = int(away.argmin())
        self._numbers[nearest] = number
        self.ledger.apply(Suggested(time=0, trial=number, parameters=self._points[nearest]))
        return nearest

    def goes_on(self, trial: int, epoch: int, metrics: Metrics, stop: Stop | None) -> bool:
        goes_on = self._ours.goes_on(self._numbers[trial], epoch, metrics, stop)
        if not self.found:
            self.epochs += 1
            self.found = self._goal.cost(metrics.get(self._goal.metric, np.inf)) <= self._until
        return goes_on and not self.found


def seen(ledger: Ledger) -> Iterator[Prior]:
    """The trials of a search as priors of another."""
    for trial in ledger.trials.values():
        yield Prior(
            time=0,
            source="a search",
            trial=trial.number,
            parameters=trial.parameters,
            history=trial.history,
            verdict=trial.verdict,
        )


def page(found: Mapping[str, Mapping[tuple[str, str], Sequence[Outcome]]]) -> str:
    facts, given = provenance(), len(next(iter(found["noa"].values())))
    lines = [
        "# Warm start",
        "",
        f"Made by `python benchmarks/warm_start.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, on {platform.machine()}, {os.cpu_count()} cores; every figure "
        "is counted in simulated time and depends on no clock.",
        "",
        f"Searches by TPE and ASHA over {given} pools of {SIZE} runs of the half for testing. A "
        "suggestion is taken to the nearest unused configuration of the pool in the unit cube. "
        "*All runs*: with priors of the other half, each run to its end. *A search*: with what "
        "such a search over a pool of the other half saw, most of it stopped early. With "
        "`spare: 1` the first trial, in a warm search the best prior's point, runs to its end. How "
        f"many priors' points are tried first, {TRIED_FIRST}, was chosen on the half for choosing.",
        "",
        f"*Found*: the share of pools in which a report came within {WITHIN:.0%} of the pool's "
        "best; else ASHA had stopped that run. *Epochs* are the mean until then, or in vain. "
        "*Per find* are all epochs over all finds, the expected running time of a search that is "
        "begun again where it fails; the ratio is of that, by the same scheduler, with 95 % by "
        "bootstrap over pools. "
        "*Tried*: the trial, in the median, that first was such a run, whether it was let to its "
        "end or not; it shows the sampler without the scheduler.",
    ]
    for name, told in NAMES.items():
        lines += [
            "",
            f"## {told}",
            "",
            "| scheduler | search | found | epochs | per find | ratio to cold | 95 % | tried |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for (scheduler, method), outcomes in found[name].items():
            low, ratio, high = interval(outcomes, found[name][scheduler, "cold"])
            lines.append(
                f"| {scheduler} | {method} | "
                f"{statistics.fmean(each.found for each in outcomes):.2f} | "
                f"{statistics.fmean(each.epochs for each in outcomes):.0f} | "
                f"{per_find(outcomes):.0f} | {ratio:.2f} | {low:.2f} to {high:.2f} | "
                f"{statistics.median(each.tried for each in outcomes):g} |"
            )
    return "\n".join([*lines, "", f"The goal for the ratio was {GOAL}.", ""])


def per_find(outcomes: Sequence[Outcome]) -> float:
    """Expected running time (Hansen et al., arXiv 1603.08785); infinite without a find."""
    finds = sum(each.found for each in outcomes)
    return sum(each.epochs for each in outcomes) / finds if finds else math.inf


def interval(outcomes: Sequence[Outcome], cold: Sequence[Outcome]) -> tuple[float, float, float]:
    """The ratio of epochs per find, between the 2.5 % and 97.5 % points of a bootstrap."""
    drawn, pairs = random.Random(0), list(zip(outcomes, cold, strict=True))
    many = []
    for _ in range(2000):
        ours, theirs = zip(*drawn.choices(pairs, k=len(pairs)), strict=True)
        many.append(per_find(ours) / per_find(theirs))
    low, high = np.quantile(many, [0.025, 0.975])
    return float(low), per_find(outcomes) / per_find(cold), float(high)


if __name__ == "__main__":
    typer.run(main)
