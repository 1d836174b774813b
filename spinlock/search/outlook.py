"""What trials of a search will take, from a rehearsal of a few of its points: memory and time.

A rehearsal builds a run on a few operators of its data, in this process, and probes it as a trial
does. What it tells of memory is what the trial's own plan will rest on; its seconds are those of a
run that has the machine to itself.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from spinlock.config import parse, replace
from spinlock.data import open_dataset
from spinlock.errors import ConfigError
from spinlock.search.ledger import Ledger
from spinlock.search.memory_model import MemoryModel, Peak
from spinlock.search.parameter import Scalar
from spinlock.search.sizing import SIZES, Probed, Room
from spinlock.search.space import Resources, Study
from spinlock.search.trainable import Trainable
from spinlock.training.batches import split
from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.footprint import Footprint, Probe

_OPERATORS = 16  # of a rehearsal

Point = dict[str, Scalar]


@dataclass(frozen=True)
class Plan:
    """The micro-batch of a point, and what it is predicted to take with it."""

    point: Point
    samples: int
    micro_batch: int
    predicted: float
    fits: bool


@dataclass(frozen=True)
class Outlook:
    """Plans of points within `limit` bytes, and those rehearsed, with the seconds of an epoch."""

    plans: tuple[Plan, ...]
    limit: float
    margin: float
    device: str
    paces: tuple[tuple[Point, float], ...]
    start: float  # seconds until a trial trains


@dataclass(frozen=True)
class _Rehearsal:
    footprint: Footprint
    probes: Sequence[Probe]
    seconds: float  # to build and to probe the run, as a trial does when it begins


def outlook(study: Study, trainable: Trainable, samples: Sequence[Point]) -> Outlook | None:
    """Of the `samples` and the extremes of the space; None where nothing of it can be probed."""
    room, device = Room.of(study.resources, study.resources.at_once_here), _device(study.resources)
    runs = [
        (point, config, footprint)
        for point, config in _configurations(study, trainable, samples)
        if (footprint := trainable.footprint(config)) is not None
    ]
    if not runs:
        return None
    limit, largest = room.limit(device), max(runs, key=lambda run: _extent(run[2]))
    threads = torch.get_num_threads()
    torch.set_num_threads(study.resources.cpus_per_worker)
    try:
        drawn = [_rehearse(trainable, config, limit) for _, config, _ in runs[: len(samples)]]
        rehearsed = [*drawn, _rehearse(trainable, largest[1], limit)]
    finally:
        torch.set_num_threads(threads)
    peaks = [
        Peak(each.footprint, probe.micro_batch, probe.peak - each.footprint.on(str(device)))
        for each in rehearsed
        for probe in each.probes
    ]
    if not peaks:
        return None
    model = MemoryModel.fit(peaks)
    plans = dict[str, Plan]()
    for point, _, footprint in runs:
        data, most = footprint.on(str(device)), math.ceil(footprint.samples / room.workers)
        fits = model.largest(footprint, most=most, limit=limit - data)
        size = max(1, fits)
        plan = Plan(point, most, size, model.predict(footprint, size) + data, bool(fits))
        plans.setdefault(repr(footprint), plan)  # once for points that differ in nothing of it
    return Outlook(
        tuple(plans.values()),
        limit,
        model.margin,
        str(device),
        tuple(
            (point, _epoch(config, each.probes, room.workers))
            for (point, config, _), each in zip(runs, drawn, strict=False)
            if each.probes
        ),
        statistics.mean(each.seconds for each in drawn),
    )


def beside(resources: Resources, trials: int, start: float) -> float:
    """Seconds of a search that no trial trains in: Ray's start, and `start` of each trial."""
    ray = 30.0 if resources.execution == "ray_train" else 6.0
    return ray + trials * (start + 0.3) / resources.at_once_here


def paces_of(ledger: Ledger) -> tuple[list[tuple[Point, float]], float] | None:
    """Of the trials of a search, settings and seconds of each epoch; and of their starts, a mean.

    None where none has finished an epoch.
    """
    paces = [
        (trial.parameters, row["seconds"])
        for trial in ledger.trials.values()
        for row in trial.history.values()
        if "seconds" in row
    ]
    starts = [trial.starting for trial in ledger.trials.values() if trial.starting is not None]
    return (paces, statistics.mean(starts)) if paces else None


def _configurations(
    study: Study, trainable: Trainable, samples: Sequence[Point]
) -> Iterator[tuple[Point, NOATraining | VQVAETraining]]:
    for point in (*samples, *study.extremes()):
        try:
            config = parse(trainable.model, study.configuration(point), where=study.name)
        except ConfigError:  # each value is possible, and their combination is not
            continue
        if isinstance(config, NOATraining | VQVAETraining):
            yield point, config


def _rehearse(
    trainable: Trainable, config: NOATraining | VQVAETraining, limit: float
) -> _Rehearsal:
    info = open_dataset(config.data.path).info
    few = {
        "data.operators": min(_OPERATORS, config.data.operators or info.operators),
        "data.realizations": 1,
    }
    small = parse(type(config), replace(config.model_dump(mode="json"), few), where="rehearsal")
    begun = time.perf_counter()
    trainer, footprint = trainable.build(small), trainable.footprint(small)
    assert isinstance(trainer, Probed)
    assert footprint is not None
    sizes = [size for size in SIZES if size <= footprint.samples]
    probes = trainer.probe(sizes, limit)
    return _Rehearsal(footprint, probes, time.perf_counter() - begun)


def _extent(footprint: Footprint) -> float:
    return sum(footprint.amounts(footprint.samples).values())


def _epoch(config: NOATraining | VQVAETraining, probes: Sequence[Probe], workers: int) -> float:
    """Seconds of an epoch with its validation, by the line through the two largest probes."""
    last, before = probes[-1], probes[max(0, len(probes) - 2)]
    each = (last.seconds - before.seconds) / max(1, last.micro_batch - before.micro_batch)
    each = max(each, last.seconds / last.micro_batch / 4) if last is not before else last.seconds
    once = max(0.0, last.seconds - each * last.micro_batch)
    whole = split(open_dataset(config.data.path).info, config.data, config.seed)
    windows = config.windows if isinstance(config, VQVAETraining) else 1
    training, validation = (windows * len(part) for part in (whole.train, whole.validation))
    updates = math.ceil(training / config.batch_size)
    judged = validation * last.forward / last.micro_batch
    return updates * once + (training * each + judged) / workers


def _device(resources: Resources) -> torch.device:
    """Where a trainer of ours goes, in this process."""
    cuda = torch.cuda.is_available() and resources.gpus_per_worker > 0
    return torch.device("cuda" if cuda else "cpu")
