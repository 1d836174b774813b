"""What a guard would have done to recorded runs: good ones that it stops, epochs that it saves."""

from collections.abc import Sequence
from dataclasses import dataclass

from spinlock.search.recorded import Run, shipped
from spinlock.search.space import Objective
from spinlock.training.guards import (
    CodebookCollapse,
    CommitClimb,
    CommitDrift,
    Divergence,
    Guard,
    Plateau,
)

_SURE = 0.95
_COMPOSITE = "quality/composite"
CERTIFIED: dict[str, tuple[Guard, ...]] = {
    "noa": (CommitClimb(), Divergence(), Plateau()),
    "vqvae": (
        CommitDrift(),
        CodebookCollapse(),
        Divergence(metric=_COMPOSITE, factor=1.5),
        Plateau(metric=_COMPOSITE, patience=6, improvement=0.005),
    ),
}
"""For each trainable the guards that recorded runs certify, chosen on the half for choosing."""


@dataclass(frozen=True)
class Certificate:
    """A guard on runs of which the best tenth, by their best epoch, are `top`."""

    runs: int
    top: int
    stopped_top: int
    stopped: int
    epochs: int
    saved: int

    @property
    def bound(self) -> float:
        """The share of top runs that it stops, at most, with 95 % confidence (Clopper, Pearson)."""
        from scipy.stats import binomtest  # half a second, which a trial's process does not need

        found = binomtest(self.stopped_top, self.top, alternative="less")
        return float(found.proportion_ci(_SURE, method="exact").high)

    @property
    def sound(self) -> bool:
        """Whether it left every top run alone."""
        return self.stopped_top == 0

    def __str__(self) -> str:
        return (
            f"of {self.runs} recorded runs it stops {self.stopped}, {self.stopped_top} of them "
            f"among the best {self.top} (at most {self.bound:.0%} of such, 95 % confidence), and "
            f"saves {self.saved / self.epochs:.1%} of all epochs"
        )


def certify(guards: Sequence[Guard], runs: Sequence[Run], objective: Objective) -> Certificate:
    """What `guards` together would have done to each of the runs."""
    order = sorted(runs, key=lambda run: (objective.cost(run.best(objective)), run.configuration))
    top = order[: max(1, len(order) // 10)]
    ends = {run.configuration: _end(guards, run) for run in order}
    last = {run.configuration: max(run.history) for run in order}
    return Certificate(
        runs=len(order),
        top=len(top),
        stopped_top=sum(ends[run.configuration] is not None for run in top),
        stopped=sum(end is not None for end in ends.values()),
        epochs=sum(last.values()),
        saved=sum(last[number] - end for number, end in ends.items() if end is not None),
    )


def objection(trainable: str, guard: Guard) -> str | None:
    """Why recorded runs speak against a guard, or say nothing of it; None if it is certified."""
    recorded = shipped(trainable)
    silent = [] if recorded is None else [m for m in guard.watched if m not in recorded.metrics]
    if recorded is None or silent:
        what = f" of {' and '.join(silent)}" if silent else ""
        return f"{guard.kind} has no certificate: no runs of a {trainable}{what} are recorded."
    found = certify([guard], recorded.half("test"), recorded.objective)
    return None if found.sound else f"{guard.kind} stops good runs: {found}."


def _end(guards: Sequence[Guard], run: Run) -> int | None:
    """The epoch before its last at which the first guard stops the run."""
    last = max(run.history)
    for epoch in run.history:
        so_far = {e: row for e, row in run.history.items() if e <= epoch}
        if epoch < last and any(guard.check(so_far) is not None for guard in guards):
            return epoch
    return None
