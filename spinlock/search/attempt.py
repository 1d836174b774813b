"""One attempt at a trial, in the process that trains it."""

import gc
import logging
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from spinlock.config import parse
from spinlock.errors import ArtifactError, OutOfMemoryError
from spinlock.search import checkpoints
from spinlock.search.checkpoints import Report
from spinlock.search.curves import Curves
from spinlock.search.execution import TRIAL
from spinlock.search.group import Reports
from spinlock.search.memory_model import Known
from spinlock.search.preemption import Look, Notice, Preempted, watched
from spinlock.search.sizing import Probed, Room, size
from spinlock.search.space import Objective
from spinlock.search.trainable import Trainable
from spinlock.training.memory import release

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
        plain: dict[str, Any] = _PLAIN.dump_python(self)
        return plain | {TRIAL: self.number}

    @classmethod
    def unpack(cls, config: dict[str, Any]) -> "Assignment":
        return _PLAIN.validate_python(config)


_PLAIN = TypeAdapter(Assignment)


def attempt(trainable: Trainable, config: dict[str, Any], look: Look, *, leads: bool) -> Reports:
    """Train the trial in Tune's config, to be left when `look` says why; see `reports`."""
    with watched(look) if leads else nullcontext(Notice()) as notice:
        yield from reports(trainable, Assignment.unpack(config), notice, leads=leads)


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


_first = True  # of the trials in this process


def _clear() -> None:
    """Let go of what the trial before held: processes are reused.

    What the first trial finds is modules, which are never garbage. To look through them again took
    0.15 s of every trial, so collections pass by them from then on.
    """
    global _first
    release(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))
    if _first:
        gc.freeze()
        _first = False
