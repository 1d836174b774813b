"""What it costs to start a trial: python benchmarks/trial_start.py

Runs the same trials, which train next to nothing, on one local Ray after the other, two at a time:

    stock        a Tune function that calls TorchTrainer.fit for its trial, as Ray's guide has it
    ray_train    ours: a trial's process keeps its group of Ray Train workers for the next trial
    in_process   ours: a trial is trained in its own process, which is kept for the next

and writes benchmarks/results/trial_start.md. Times are from the start of a trial, as Tune tells it,
to its first report at the driver. Memory is what the processes under the driver would give back.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import ray
import typer
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from typing_extensions import override

from spinlock.artifact import provenance
from spinlock.config import Config
from spinlock.files import atomic_file
from spinlock.search import cluster
from spinlock.search.attempt import Assignment, attempt, reports
from spinlock.search.checkpoints import Report
from spinlock.search.execution import in_process, ray_train
from spinlock.search.packed import packed
from spinlock.search.preemption import Notice
from spinlock.search.space import Objective, Resources

RESULT = Path(__file__).parent / "results" / "trial_start.md"
CONCURRENT, EPOCHS = 2, 3


class Idle(Config):
    """The configuration of a training that does nothing."""


class IdleTrainer:
    """Reports and saves, which is all that a start needs of a trainer."""

    def epochs(self) -> Iterator[Report]:
        for epoch in range(1, EPOCHS + 1):
            yield Report(epoch, {"val/traj": 1 / epoch})

    def save(self, directory: Path) -> None:
        directory.mkdir()

    def restore(self, directory: Path) -> None:
        raise NotImplementedError


class IdleTrainable:
    """As much of a Trainable as running a trial takes."""

    model = Idle

    def footprint(self, _: Idle) -> None:
        return None

    def build(self, _: Idle) -> IdleTrainer:
        return IdleTrainer()


def stock(trainable: Any, resources: Resources, storage: Path) -> Callable[[dict[str, Any]], None]:
    """What Ray's guide to Tune with Train says: a group per trial."""
    return partial(_fit, trainable, resources, storage)


def _fit(trainable: Any, resources: Resources, storage: Path, config: dict[str, Any]) -> None:
    TorchTrainer(
        partial(_loop, trainable),
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers,
            resources_per_worker={"CPU": resources.cpus_per_worker},
        ),
        run_config=train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=str(storage),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _loop(trainable: Any, config: dict[str, Any]) -> None:
    for report in reports(trainable, Assignment.unpack(config), Notice(), leads=True):
        train.report({"epoch": report.epoch})


class Watch(tune.Callback):  # type: ignore[misc]
    """When each trial started and first reported, and the memory and processes meanwhile."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.memory: list[tuple[int, int]] = []

    @override
    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.started[trial.trial_id] = time.perf_counter()

    @override
    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        if trial.trial_id not in self.first:
            self.first[trial.trial_id] = time.perf_counter()
            self.memory.append(_memory())

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _memory() -> tuple[int, int]:
    """Processes of trials and the memory that is theirs alone, bytes."""
    count = unique = 0
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "IDLE" not in title:
                unique += process.memory_full_info().uss
                count += 1
        except psutil.Error:  # it has just ended
            continue
    return count, unique


def measure(name: str, trials: int) -> str:
    """One row: `trials` trials by one way of running them, on a Ray of its own."""
    resources = Resources(
        execution="in_process" if name == "in_process" else "ray_train", concurrent=CONCURRENT
    )
    trainable: Any = IdleTrainable()
    watch = Watch()
    with tempfile.TemporaryDirectory() as directory, cluster.connect(resources):
        storage = Path(directory)
        if name == "in_process":
            function, needs = in_process(packed(partial(attempt, trainable))), {"cpu": 1}
        else:
            function = (
                stock(trainable, resources, storage / "train")
                if name == "stock"
                else ray_train(packed(partial(attempt, trainable)), resources, storage / "train")
            )
            needs = tune.PlacementGroupFactory([{cluster.DRIVER: 1}])
        configs = [
            Assignment(n, storage / f"{n}", {}, 0, (Objective(),)).pack() for n in range(trials)
        ]
        begun = time.perf_counter()
        tune.Tuner(
            tune.with_resources(function, needs),
            param_space={"trial": tune.grid_search(list(range(trials)))}
            | {
                key: tune.sample_from(partial(_of, configs, key))
                for key in configs[0]
                if key != "trial"
            },
            tune_config=tune.TuneConfig(
                max_concurrent_trials=CONCURRENT, reuse_actors=name != "stock"
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(storage), callbacks=[watch], verbose=0
            ),
        ).fit()
        wall = time.perf_counter() - begun
    starts = [
        watch.first[t] - watch.started[t] for t in sorted(watch.started, key=watch.started.get)
    ]
    count, unique = max(watch.memory, key=lambda found: found[1])
    first, later = max(starts[:CONCURRENT]), statistics.median(starts[CONCURRENT:])
    cells = (
        name,
        f"{wall:.1f} s",
        f"{first:.1f} s",
        f"{1000 * later:.0f} ms" if later < 1 else f"{later:.1f} s",
        f"{count / CONCURRENT:.1f}",
        f"{unique / CONCURRENT / 2**20:.0f} MiB",
    )
    return "| " + " | ".join(cells) + " |"


def _of(configs: list[dict[str, Any]], key: str, config: Any) -> Any:
    return configs[config["trial"]][key]


def main(trials: Annotated[int, typer.Option(help="Per way of running them.", min=3)] = 10) -> None:
    rows = [measure(name, trials) for name in ("stock", "ray_train", "in_process")]
    facts = provenance()
    lines = [
        "# What it costs to start a trial",
        "",
        f"Made by `python benchmarks/trial_start.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, on {platform.machine()}, {os.cpu_count()} cores, Ray "
        f"{ray.__version__}: {trials} trials of {EPOCHS} epochs that train nothing, "
        f"{CONCURRENT} at a time, each way on a new Ray, with our settings of it.",
        "",
        "Stock is a group of Ray Train workers per trial, as in Ray's guide; ours are kept from "
        "trial to trial. A start lasts from Tune's start of a trial to its first report at the "
        "driver.",
        "",
        "| | wall | first start | later starts, median | processes per trial | memory |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    with atomic_file(RESULT) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULT.read_text())


if __name__ == "__main__":
    typer.run(main)
