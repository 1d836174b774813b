"""A trial's memory plan: which micro-batch its part of the device has room for.

Made once, in the trial's own process before it trains: a probe of a few samples there, and the
memory model fitted to it together with what earlier trials of the search took. The plan goes into
the log, and every further attempt follows it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from spinlock.search.events import Sizing
from spinlock.search.memory_model import Known, MemoryModel, Peak
from spinlock.search.space import Resources
from spinlock.training.footprint import Footprint, Probe

SIZES = (1, 2, 4)
OWN = 20.0  # the weight of a trial's own probe beside what others took
_USABLE_GPU = 0.9  # the rest are its context, and gaps between blocks
_USABLE_HOST = 0.8  # the rest are the system, Ray's own processes and the driver
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@runtime_checkable
class Probed(Protocol):
    """A trainer that can be probed before it begins, and begin with smaller micro-batches."""

    @property
    def device(self) -> torch.device: ...
    def probe(self, sizes: Sequence[int], limit: float = ...) -> Sequence[Probe]: ...
    def limit_micro_batch(self, most: int) -> int: ...


@dataclass(frozen=True)
class Room:
    """How a device is divided: what a trial's plan is held against.

    `at_once` are the workers of all trials that train at the same time, on all nodes.
    """

    at_once: int = 1
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    gigabytes: float | None = None

    @classmethod
    def of(cls, resources: Resources, trials: int) -> "Room":
        return cls(
            at_once=trials * resources.workers,
            workers=resources.workers,
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            gigabytes=resources.memory_gb_per_worker,
        )

    def limit(self, device: torch.device) -> float:
        """Bytes that one worker may take on the `device` of this node."""
        if self.gigabytes is not None:
            return self.gigabytes * 1e9
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            return _USABLE_GPU * total * min(1.0, self.gpus or 1.0)
        here = min(self.at_once, max(1, (os.cpu_count() or 1) // self.cpus))
        return _USABLE_HOST * _host_bytes() / here


def size(trainer: Probed, footprint: Footprint, known: Known, room: Room) -> Sizing | None:
    """The plan of a trial that is about to begin; None where nothing could be probed.

    A single sample that is predicted not to fit is tried all the same: only the device can tell.
    """
    most = -(-footprint.samples // room.workers)
    limit, data = min(room.limit(trainer.device), known.failed), footprint.on(str(trainer.device))
    probes = tuple(trainer.probe([each for each in SIZES if each <= most], limit))
    found = None
    if probes:
        own = [Peak(footprint, probe.micro_batch, probe.peak - data, OWN) for probe in probes]
        model = MemoryModel.fit([*known.peaks, *own])
        once, each = model.line(footprint)
        found = Sizing(
            micro_batch=max(1, model.largest(footprint, most=most, limit=limit - data)),
            once=once + data,
            per_sample=each,
            margin=model.margin,
            limit=limit,
            device=str(trainer.device),
            footprint=footprint,
            probes=probes,
        )
    # Every rank says its size, the smallest holds: their collectives must stay in step.
    agreed = trainer.limit_micro_batch(most if found is None else found.micro_batch)
    return None if found is None else found.model_copy(update={"micro_batch": agreed})


def _host_bytes() -> float:
    """The memory of this machine, or what a control group leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    held = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    return float(total if held == "max" else min(total, int(held)))
