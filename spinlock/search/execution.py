"""How a trial is run: inside its own process, or by a group of Ray Train workers.

Both drive the same generator of reports, so they give the same numbers. What differs is cost:

    in_process   one process per trial, reused by the next; a report reaches the driver in 1 ms,
                 and the trial waits for the verdict before its next epoch
    ray_train    about eight processes and 10-15 s per trial; workers may be a few, on several
                 hosts; reports are polled, and the workers may run an epoch or two ahead
"""

import gc
import logging
import os
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from spinlock.config import parse
from spinlock.errors import ArtifactError, OutOfMemoryError
from spinlock.search import checkpoints
from spinlock.search.checkpoints import Report
from spinlock.search.rules import Stop
from spinlock.search.space import Objective, Resources
from spinlock.search.trainable import Trainable

TRIAL, GROUP = "trial", "placement_group"
TrialFunction = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A trial as it travels to whoever trains it. Up to `acknowledged` no epoch is told again."""

    number: int
    directory: Path
    training: dict[str, Any]
    acknowledged: int
    objectives: tuple[Objective, ...]

    def pack(self) -> dict[str, Any]:
        """As plain values, for Tune's config."""
        return {
            TRIAL: self.number,
            "directory": str(self.directory),
            "training": self.training,
            "acknowledged": self.acknowledged,
            "objectives": [objective.model_dump() for objective in self.objectives],
        }

    @classmethod
    def unpack(cls, config: dict[str, Any]) -> "Assignment":
        return cls(
            number=config[TRIAL],
            directory=Path(config["directory"]),
            training=config["training"],
            acknowledged=config["acknowledged"],
            objectives=tuple(Objective(**objective) for objective in config["objectives"]),
        )


def reports(
    trainable: Trainable, assignment: Assignment, *, leads: bool
) -> Generator[Report, None, None]:
    """Train a trial from its newest sound checkpoint on; yields each epoch after it is saved.

    Epochs that a former process trained and nobody acknowledged come first. One process of the
    group `leads`: it alone writes.
    """
    directory = assignment.directory
    with checkpoints.exclusive(directory) if leads else nullcontext():
        config = parse(trainable.model, assignment.training, where=f"trial {assignment.number}")
        try:
            trainer, history = trainable.build(config), list[Report]()
        except OutOfMemoryError as error:
            yield Report(assignment.acknowledged + 1, {}, Stop("memory", str(error)))
            return
        for checkpoint in checkpoints.newest_first(directory):
            try:
                history = checkpoints.reports_in(checkpoint)
                trainer.restore(checkpoint / "trainer")
                break
            except ArtifactError as error:
                _log.warning("trial %d: %s An older one is used.", assignment.number, error)
                trainer, history = trainable.build(config), []
        yield from (report for report in history if report.epoch > assignment.acknowledged)
        if history and history[-1].stop is not None:
            return
        for epoch in trainer.epochs():
            report = Report.of(epoch)
            history.append(report)
            if leads and (report.stop is None or report.stop.kind == "early_stopping"):
                checkpoints.save(directory, trainer, history, assignment.objectives)
            yield report
            if report.stop is not None:
                return


def in_process(trainable: Trainable) -> TrialFunction:
    """A Tune function that trains the trial in the process that it is called in."""
    return partial(_train_here, trainable)


def ray_train(trainable: Trainable, resources: Resources, storage: Path) -> TrialFunction:
    """A Tune function that starts a group of Ray Train workers and passes their reports on."""
    return partial(_train_group, trainable, resources, storage)


def _train_here(trainable: Trainable, config: dict[str, Any]) -> None:
    gc.collect()  # the process is reused: what the trial before it held must go first
    with closing(reports(trainable, Assignment.unpack(config), leads=True)) as epochs:
        for report in epochs:
            tune.report(_pack(report))


def _train_group(
    trainable: Trainable, resources: Resources, storage: Path, config: dict[str, Any]
) -> None:
    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    TorchTrainer(
        partial(_train_worker, trainable),
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=train.RunConfig(
            # A name of its own per attempt: Train must not resume by itself what the trial's
            # own checkpoints resume.
            name=f"{tune.get_context().get_trial_id()}-{os.getpid()}",
            storage_path=str(storage),
            callbacks=[TuneReportCallback()],
            # Retries are the search's: one policy, each attempt in the log. The default
            # controller limit of -1 would retry a group that cannot start for ever.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=3),
        ),
    ).fit()


def _train_worker(trainable: Trainable, config: dict[str, Any]) -> None:
    leads = train.get_context().get_world_rank() == 0
    group = ray.util.get_current_placement_group()
    with closing(reports(trainable, Assignment.unpack(config), leads=leads)) as epochs:
        for report in epochs:
            train.report(_pack(report) | {GROUP: "" if group is None else group.id.hex()})


def unpack(result: dict[str, Any]) -> tuple[int, dict[str, float], Stop | None] | None:
    """Epoch, metrics and stop in one of Tune's flattened results; None if it holds no report."""
    if "epoch" not in result:
        return None
    prefix = "metrics/"
    metrics = {k.removeprefix(prefix): float(v) for k, v in result.items() if k.startswith(prefix)}
    stop = Stop(result["stop_kind"], result["stop_sentence"]) if result["stop_kind"] else None
    return int(result["epoch"]), metrics, stop


def _pack(report: Report) -> dict[str, Any]:
    stop = report.stop or Stop("", "")
    return {
        "epoch": report.epoch,
        "metrics": report.metrics,
        "stop_kind": stop.kind,
        "stop_sentence": stop.sentence,
    }
