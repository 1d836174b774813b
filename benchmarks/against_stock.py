"""A whole search by Spinlock and one by stock Ray Tune, in the same time on the same machine.

    python benchmarks/against_stock.py noa --work DIRECTORY [--seconds 90]
    python benchmarks/against_stock.py vqvae --work DIRECTORY

Stock is what Ray's documentation shows: ASHAScheduler with OptunaSearch around a function that
trains and reports each epoch. Both search the space of benchmarks/curves/NAME.yaml on its data, two
trials at a time, each trial one thread; trainer, data, epochs and start of the clock are the same,
three seeds in turn. What counts is what was reported within the time. Writes
benchmarks/results/against_stock_NAME.md.
"""

import math
import os
import statistics
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
import torch
import typer
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from record import ready

from spinlock.artifact import provenance
from spinlock.config import parse
from spinlock.files import atomic_file
from spinlock.search.certificate import CERTIFIED
from spinlock.search.events import Reported, read_events
from spinlock.search.ledger import EVENTS
from spinlock.search.sampler import distribution
from spinlock.search.space import Study
from spinlock.search.study import run
from spinlock.search.trainables import TRAINABLES

RESULTS = Path(__file__).parent / "results"
SEEDS, AT_ONCE, MANY = (0, 1, 2), 2, 2000
RUNGS = {"noa": ((1, 3, 9), 2.5), "vqvae": ((1, 3, 9), 3.0)}
Found = list[tuple[float, int, float]]
"""Seconds since the start, trial, and value of each epoch that was reported."""


def main(
    name: Annotated[Literal["noa", "vqvae"], typer.Argument(help="What is trained.")],
    work: Annotated[Path, typer.Option(help="Where data and searches are kept.")],
    seconds: Annotated[float, typer.Option(min=10, help="Of each search.")] = 90.0,
) -> None:
    given = ready(name, work.resolve())
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for how, search in (("Spinlock", ours), ("stock Ray Tune", stock)):
            begun = time.time()
            place = work.resolve() / "against" / f"{name}-{how.split()[0]}-{seed}-{begun:.0f}"
            reports = [
                each for each in search(given, name, seed, seconds, place) if each[0] <= seconds
            ]
            rows.append(
                {
                    "seed": seed,
                    "how": how,
                    "trials": len({trial for _, trial, _ in reports}),
                    "epochs": len(reports),
                    "best": min(
                        (value for _, _, value in reports if value == value), default=math.nan
                    ),
                    "wall": time.time() - begun,
                }
            )
            print(rows[-1], flush=True)
    text = page(name, given, rows, seconds)
    with atomic_file(RESULTS / f"against_stock_{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def ours(given: Study, name: str, seed: int, seconds: float, place: Path) -> Found:
    rungs, factor = RUNGS[name]
    study = Study.model_validate(
        given.model_dump()
        | {
            "seed": seed,
            "trials": MANY,
            "budget": {"hours": seconds / 3600},
            "searcher": {"kind": "tpe"},
            "scheduler": {"kind": "promotion", "rungs": rungs, "reduction_factor": factor},
            "guards": [guard.model_dump() for guard in CERTIFIED[name]],
            "resources": {"execution": "in_process", "concurrent": AT_ONCE},
        }
    )
    begun = time.time()
    run(study, TRAINABLES[name], place, dashboard=False)
    return [
        (event.time - begun, event.trial, event.metrics.get(study.goals[0].metric, math.nan))
        for event in read_events(place / EVENTS)
        if isinstance(event, Reported)
    ]


def stock(given: Study, name: str, seed: int, seconds: float, place: Path) -> Found:
    metric, epochs = given.goals[0].metric, int(given.training["epochs"])
    trainable = TRAINABLES[name]

    def train(config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        trainer = trainable.build(
            parse(trainable.model, given.configuration(config), where="stock")
        )
        for report in trainer.epochs():
            if report.stop is not None:
                raise RuntimeError(report.stop.sentence)
            tune.report({metric: report.metrics[metric], "at": time.time()})

    begun = time.time()
    ray.init(num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False, logging_level="error")
    reported: Found = []
    known: dict[str, int] = {}

    class Listener(tune.Callback):
        def on_trial_result(self, **info: Any) -> None:
            result = info["result"]
            number = known.setdefault(info["trial"].trial_id, len(known))
            reported.append((result["at"] - begun, number, result[metric]))

    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="min",
            search_alg=OptunaSearch(
                {key: distribution(parameter) for key, parameter in given.space.items()},
                metric=metric,
                mode="min",
                seed=seed,
            ),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=1, reduction_factor=3),
            num_samples=MANY,
            max_concurrent_trials=AT_ONCE,
            time_budget_s=seconds,
        ),
        run_config=tune.RunConfig(storage_path=str(place), callbacks=[Listener()], verbose=0),
    ).fit()
    ray.shutdown()
    return reported


def page(name: str, given: Study, rows: list[dict[str, Any]], seconds: float) -> str:
    facts, metric = provenance(), given.goals[0].metric
    rungs, factor = RUNGS[name]
    lines = [
        f"# Against stock Ray Tune: {name}",
        "",
        f"Made by `python benchmarks/against_stock.py {name}`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, {os.cpu_count()} cores.",
        f"Searches of {seconds:g} s, Ray's own start included; two trials at a time, "
        f"{given.training['epochs']} epochs each. Spinlock: TPE, promotion at {list(rungs)} by "
        f"{factor:g}, certified guards, trials in reused processes. Stock: OptunaSearch, ASHA (1, "
        "factor 3). Best: the lowest value of any epoch within the time.",
        "",
        f"| seed | | best {metric} | trials | epochs | wall s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['seed']} | {row['how']} | {row['best']:.4f} | {row['trials']} | "
            f"{row['epochs']} | {row['wall']:.0f} |"
            for row in rows
        ),
        "",
    ]
    for how in ("Spinlock", "stock Ray Tune"):
        best = [row["best"] for row in rows if row["how"] == how]
        epochs = [row["epochs"] for row in rows if row["how"] == how]
        lines.append(
            f"{how}: median best {statistics.median(best):.4f}, median epochs "
            f"{statistics.median(epochs):g}."
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    typer.run(main)
