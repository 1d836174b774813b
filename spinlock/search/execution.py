"""How a trial is run: inside its own process, or by a group of Ray Train workers.

Both drive the same generator of reports and wait for the verdict on an epoch before they train
the next, so they give the same numbers and stop at the same epochs. What differs is cost:

    in_process   one process, reused by the next trial
    ray_train    a group of workers with its helpers, seven processes and 10 to 30 s to start,
                 reused by the next trial; workers may be a few, on several hosts
"""

import gc
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray._raylet import setproctitle  # type: ignore[attr-defined]
from ray.tune.trainable.function_trainable import wrap_function

from spinlock.config import parse
from spinlock.errors import ArtifactError, OutOfMemoryError
from spinlock.search import checkpoints
from spinlock.search.checkpoints import Report
from spinlock.search.curves import Curves
from spinlock.search.group import Group, Reports
from spinlock.search.rules import Stop
from spinlock.search.space import Objective, Resources
from spinlock.search.trainable import Trainable

TRIAL = "trial"
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


def reports(trainable: Trainable, assignment: Assignment, *, leads: bool) -> Reports:
    """Train a trial from its newest sound checkpoint on; yields each epoch after it is saved.

    Epochs that a former process trained and nobody acknowledged come first. One process of the
    group `leads`: it alone writes.
    """
    _clear()
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
        with ExitStack() as opened:
            curves: Curves | None = None
            for epoch in trainer.epochs():
                report = Report.of(epoch)
                history.append(report)
                if leads and (report.stop is None or report.stop.kind == "early_stopping"):
                    checkpoints.save(directory, trainer, history, assignment.objectives)
                if leads:
                    curves = curves or opened.enter_context(closing(Curves(directory)))
                    curves.report(report)
                yield report
                if report.stop is not None:
                    return


def in_process(trainable: Trainable) -> Any:
    """A Tune trainable that trains the trial in the process that it is called in."""
    return _named(partial(_train_here, trainable))


def ray_train(trainable: Trainable, resources: Resources, storage: Path) -> Any:
    """Another that has the trial trained by this process's group of Ray Train workers."""
    return _named(partial(_train_group, trainable, resources, storage))


def _named(function: TrialFunction) -> Any:
    """`function` for Tune, as an actor that Ray's dashboard shows by what it trains.

    An actor has one name for life, and trains many trials. The one under way is its process's
    title.
    """
    return type("Trials", (wrap_function(function),), {"__repr__": _told})


def _told(actor: Any) -> str:
    return f"{_experiment(actor.config)} from trial {actor.config[TRIAL]} on"


def _experiment(config: dict[str, Any]) -> str:
    return Path(config["directory"]).parents[1].name


def _train_here(trainable: Trainable, config: dict[str, Any]) -> None:
    _report(_work(trainable, config, leads=True), config)


_group: Group | None = None  # of this process, kept from trial to trial


def _train_group(
    trainable: Trainable, resources: Resources, storage: Path, config: dict[str, Any]
) -> None:
    global _group
    if _group is None or not _group.alive:
        # A name of its own: Ray Train would resume by itself what the trials' checkpoints resume.
        name = f"{_experiment(config)}-{tune.get_context().get_trial_name()}-{os.getpid()}"
        _group = Group(partial(_work, trainable), resources, storage, name)
    _report(_group.reports(config), config)


def _work(trainable: Trainable, config: dict[str, Any], *, leads: bool) -> Reports:
    return reports(trainable, Assignment.unpack(config), leads=leads)


def _report(epochs: Reports, config: dict[str, Any]) -> None:
    trial = f"ray::{_experiment(config)} trial {config[TRIAL]}"
    setproctitle(f"{trial} from epoch {config['acknowledged'] + 1} on")
    with closing(epochs):
        for report in epochs:
            tune.report(_pack(report))  # returns when the driver has judged the report
            setproctitle(f"{trial} after epoch {report.epoch}")  # Ray's own stood there meanwhile


def _clear() -> None:
    """Let go of what the trial before held: processes are reused."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


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
