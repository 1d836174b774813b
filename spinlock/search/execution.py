"""How a trial is run: inside its own process, or by a group of Ray Train workers.

Both drive the same generator of reports and wait for the verdict on an epoch before they train
the next, so they give the same numbers and stop at the same epochs. What differs is cost:

    in_process   one process, reused by the next trial
    ray_train    a group of workers with its helpers, seven processes and 10 to 30 s to start,
                 reused by the next trial; workers may be a few, on several hosts
"""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
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
from spinlock.search.events import Sizing
from spinlock.search.group import Group, Reports
from spinlock.search.preemption import (
    Nodes,
    Notice,
    Preempted,
    heed_termination,
    own_node,
    watched,
)
from spinlock.search.rules import Stop
from spinlock.search.sizing import Known, Probed, Room, size
from spinlock.search.space import Objective, Resources
from spinlock.search.trainable import Trainable
from spinlock.training.memory import release

TRIAL = "trial"
_PLAN = "plan"
TrialFunction = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A trial as it travels to whoever trains it. Up to `acknowledged` no epoch is told again.

    It has micro-batches of at most `micro_batch` samples; None: they are planned for the `room`.
    """

    number: int
    directory: Path
    training: dict[str, Any]
    acknowledged: int
    objectives: tuple[Objective, ...]
    attempt: int = 1
    micro_batch: int | None = None
    known: Known = field(default_factory=Known)
    room: Room = field(default_factory=Room)

    def pack(self) -> dict[str, Any]:
        """As plain values, for Tune's config."""
        return {
            TRIAL: self.number,
            "directory": str(self.directory),
            "training": self.training,
            "acknowledged": self.acknowledged,
            "attempt": self.attempt,
            "objectives": [objective.model_dump() for objective in self.objectives],
            "micro_batch": self.micro_batch,
            "known": self.known,
            "room": self.room,
        }

    @classmethod
    def unpack(cls, config: dict[str, Any]) -> "Assignment":
        return cls(
            number=config[TRIAL],
            directory=Path(config["directory"]),
            training=config["training"],
            acknowledged=config["acknowledged"],
            attempt=config["attempt"],
            objectives=tuple(Objective(**objective) for objective in config["objectives"]),
            micro_batch=config["micro_batch"],
            known=config["known"],
            room=config["room"],
        )


def reports(
    trainable: Trainable, assignment: Assignment, notice: Notice, *, leads: bool
) -> Reports:
    """Train a trial from its newest sound checkpoint on; yields each epoch after it is saved.

    One that begins is planned first, and its plan comes before all epochs.

    Epochs that a former process trained and nobody acknowledged come first. One process of the
    group `leads`: it alone writes. Upon a notice it saves the trial as it is, between two steps,
    and raises Preempted.
    """
    _clear()
    directory = assignment.directory
    if notice.reason is not None:
        raise Preempted(notice.reason)
    with checkpoints.exclusive(directory) if leads else nullcontext():
        config = parse(trainable.model, assignment.training, where=f"trial {assignment.number}")
        try:
            trainer, history = trainable.build(config), list[Report]()
        except OutOfMemoryError as error:
            yield Report(assignment.acknowledged + 1, {}, Stop("memory", str(error)))
            return
        begun = False
        for checkpoint in checkpoints.newest_first(directory):
            try:
                history = checkpoints.reports_in(checkpoint)
                trainer.restore(checkpoint / "trainer")
                begun = True
                break
            except ArtifactError as error:
                _log.warning("trial %d: %s An older one is used.", assignment.number, error)
                trainer, history = trainable.build(config), []
        yield from (report for report in history if report.epoch > assignment.acknowledged)
        if history and history[-1].stop is not None:
            return
        if isinstance(trainer, Probed):
            if assignment.micro_batch is not None:
                trainer.limit_micro_batch(assignment.micro_batch)
            elif not begun and (footprint := trainable.footprint(config)) is not None:
                plan = size(trainer, footprint, assignment.known, assignment.room)
                if plan is not None:
                    yield plan

        def leave_in_time(_: object) -> None:
            if leads and notice.reason is not None:
                checkpoints.save_midway(directory, trainer, history)
                raise Preempted(notice.reason)

        trainer.on_step = leave_in_time
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
    return _for_tune(partial(_train_here, trainable))


def ray_train(trainable: Trainable, resources: Resources, storage: Path) -> Any:
    """Another that has the trial trained by this process's group of Ray Train workers."""
    return _for_tune(partial(_train_group, trainable, resources, storage))


class _Trials:
    """What Tune's class around a function has besides."""

    config: dict[str, Any]

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)  # type: ignore[misc]
        heed_termination()  # only here is it in the main thread

    def __repr__(self) -> str:
        return f"{_experiment(self.config)} from trial {self.config[TRIAL]} on"


def _for_tune(function: TrialFunction) -> Any:
    """`function` for Tune, as an actor that Ray's dashboard shows by what it trains.

    An actor has one name for life, and trains many trials. The one under way is its process's
    title.
    """
    return type("Trials", (_Trials, wrap_function(function)), {})


def _experiment(config: dict[str, Any]) -> str:
    return Path(config["directory"]).parents[1].name


def _train_here(trainable: Trainable, config: dict[str, Any]) -> None:
    _report(_work(trainable, config, own_node, leads=True), config)


_group: Group | None = None  # of this process, kept from trial to trial


def _train_group(
    trainable: Trainable, resources: Resources, storage: Path, config: dict[str, Any]
) -> None:
    global _group
    if _group is not None and _group.alive and _group.outgrown:
        _group.dismiss()
    if _group is None or not _group.alive:
        # A name of its own: Ray Train would resume by itself what the trials' checkpoints resume.
        name = f"{_experiment(config)}-{tune.get_context().get_trial_name()}-{os.getpid()}"
        _group = Group(partial(_work, trainable), resources, storage, name)
    _report(_group.reports(config), config)


def _work(trainable: Trainable, config: dict[str, Any], nodes: Nodes, *, leads: bool) -> Reports:
    with watched(nodes) if leads else nullcontext(Notice()) as notice:
        yield from reports(trainable, Assignment.unpack(config), notice, leads=leads)


def _report(told: Reports, config: dict[str, Any]) -> None:
    """Tell each; Tune returns when the driver has heard and judged it."""
    trial = f"ray::{_experiment(config)} trial {config[TRIAL]}"
    title = f"{trial} from epoch {config['acknowledged'] + 1} on"
    setproctitle(title)
    with closing(told):
        for each in told:
            if isinstance(each, Sizing):
                tune.report({_PLAN: each.model_dump_json()})
            else:
                tune.report(_pack(each))
                title = f"{trial} after epoch {each.epoch}"
            setproctitle(title)  # Ray's own stood there meanwhile


def _clear() -> None:
    """Let go of what the trial before held: processes are reused."""
    release(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))


def plan_in(result: dict[str, Any]) -> Sizing | None:
    """The plan in one of Tune's results; None if it holds none."""
    return Sizing.model_validate_json(result[_PLAN]) if _PLAN in result else None


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
