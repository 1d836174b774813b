"""What machines a cluster may have: those that are there, and those that its autoscaler may bring.

Ray (2.60) keeps nowhere how far a cluster may grow but in the file that its autoscaler reads, on
the head. A search that was sent there as a job, or begun on the head, finds it.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from spinlock import config
from spinlock.search.space import Resources

_OPTION, _GCS = "--autoscaling-config=", "--gcs-address="
_HEAD = "node:__internal_head__"
_ROUNDING = 1e-6  # Ray counts in units of 1e-4; a fifth five times is a whole
Machine = dict[str, float]


@dataclass(frozen=True)
class Machines:
    """Those that are `there`, and of `kinds`, each so often, at most `most` beside the head."""

    there: tuple[Machine, ...]
    kinds: tuple[tuple[Machine, int], ...] = ()
    most: int = 0

    def now(self, value: Callable[[Machine], float]) -> float:
        """The sum of `value` over the machines that are there."""
        return math.fsum(map(value, self.there))

    def ever(self, value: Callable[[Machine], float]) -> float:
        """The largest sum that the cluster may grow to, or has."""
        head = math.fsum(value(machine) for machine in self.there if _HEAD in machine)
        may_come = sorted(
            (value(machine) for machine, count in self.kinds for _ in range(min(count, self.most))),
            reverse=True,
        )
        return max(self.now(value), head + math.fsum(may_come[: self.most]))


def machines() -> Machines:
    """Those of the Ray that this process is connected to."""
    there = tuple(_floats(node["Resources"]) for node in ray.nodes() if node["Alive"])
    scaled = _autoscaled(ray.get_runtime_context().gcs_address)
    if scaled is None:
        return Machines(there)
    head, types = scaled.get("head_node_type"), scaled.get("available_node_types", {})
    most = int(scaled.get("max_workers", 2))  # as Ray's own schema has it
    return Machines(
        there,
        tuple(
            (
                _floats(kind.get("resources", {})),
                int(kind.get("max_workers", 0 if name == head else most)),
            )
            for name, kind in types.items()
        ),
        most,
    )


def amount(kind: str) -> Callable[[Machine], float]:
    """How much of a resource a machine has."""
    return lambda machine: machine.get(kind, 0.0)


def workers_on(machine: Machine, resources: Resources) -> int:
    """How many workers of trials fit on a machine. Ray puts a fraction on one GPU, never on two."""
    cpus, gpus = machine.get("CPU", 0.0), machine.get("GPU", 0.0)
    each = resources.gpus_per_worker
    fits = cpus / resources.cpus_per_worker
    if each:
        of_gpus = gpus * _whole(1 / each) if each < 1 else gpus / each
        fits = min(fits, of_gpus)
    return _whole(fits)


def _floats(amounts: dict[str, Any]) -> Machine:
    return {kind: float(amount) for kind, amount in amounts.items()}


def _whole(number: float) -> int:
    return math.floor(number + _ROUNDING)


def _autoscaled(gcs: str) -> dict[str, Any] | None:
    """The file of the autoscaler of the Ray at `gcs`.

    None where none runs on this machine, or it is another user's.
    """
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended, or hides its environment
            words = process.read_text(errors="replace").split("\0")
            named = [word.removeprefix(_OPTION) for word in words if word.startswith(_OPTION)]
            if named and f"{_GCS}{gcs}" in words:
                around = process.with_name("environ").read_text(errors="replace").split("\0")
                home = next((word[5:] for word in around if word.startswith("HOME=")), "")
                below = named[0].removeprefix("~/")  # it stands there as it was typed
                file = Path(named[0]) if below == named[0] else Path(home, below)
                return config.read(file)[0] if file.is_file() else None
    return None
