"""Guards: rules over one run's own history that say, in a sentence, why it should stop.

A scheduler compares runs; a guard judges one. Guards are frozen, have no clock and no randomness,
and see only what was reported, so a resumed or replayed run is judged as the first time.
`check` takes the metrics of every reported epoch so far by its number, oldest first, the latest
included; epochs that report nothing are not in it. Every guard spares a run whose latest epoch
lacks what the guard watches, and all but `Plateau` one whose latest epoch is its best.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spinlock.config import Config

History = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Breach:
    """Why a run should stop: in a sentence, and `metric`, whose `value` has passed its `limit`."""

    sentence: str
    metric: str
    value: float
    limit: float


class _Rule(Config):
    """With `force` a search takes the guard though its certificate speaks against it."""

    force: bool = False


class CommitClimb(_Rule):
    """The commitment loss leaves its own minimum behind: the run drifts off the codebooks.

    Stops when `metric` exceeds `factor` times its own minimum so far, or `ceiling`. Safe for a
    NOA, whose VQ-VAE is frozen. Not for a VQ-VAE in training: the latents' variance grows as it
    learns, and the raw commitment loss of its best runs with it (seeds: "L_commit increasing").
    For those there is `CommitDrift`.
    """

    kind: Literal["commit_climb"] = "commit_climb"
    metric: str = "val/commit"
    factor: float | None = Field(2.0, gt=1)
    ceiling: float | None = Field(None, gt=0)
    min_epochs: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _acts(self) -> "CommitClimb":
        if self.factor is None and self.ceiling is None:
            raise ValueError("a commit_climb guard needs a factor, a ceiling, or both")
        return self

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics without which it is silent."""
        return (self.metric,)

    def check(self, history: History) -> Breach | None:
        """Why the run should stop, or None."""
        found = _lowest_and_latest(history, self.metric, self.min_epochs)
        if found is None:
            return None
        at, lowest, latest = found
        if self.ceiling is not None and latest > self.ceiling:
            sentence = f"{self.metric} {latest:.4g} is above the ceiling of {self.ceiling:.4g}"
            return Breach(sentence, self.metric, latest, self.ceiling)
        if self.factor is not None and latest > self.factor * lowest:
            sentence = (
                f"{self.metric} climbed to {latest:.4g}, above {self.factor:g} times "
                f"its minimum of {lowest:.4g} at epoch {at}"
            )
            return Breach(sentence, self.metric, latest, self.factor * lowest)
        return None


class CommitDrift(_Rule):
    """Latents leave the codes *while* the task gets worse: a VQ-VAE's climbing commitment.

    Stops when `metric` exceeds `factor` times its own minimum and `task` exceeds `worse` times
    its own. `val/relative_commitment` is the commitment over the latents' variance, which takes
    out the growth that a healthy encoder shows; a run that still improves its task is spared
    whatever its latents do.
    """

    kind: Literal["commit_drift"] = "commit_drift"
    metric: str = "val/relative_commitment"
    task: str = "val/reconstruction"
    factor: float = Field(1.2, gt=1)
    worse: float = Field(1.1, ge=1)
    min_epochs: int = Field(10, ge=1)

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics without which it is silent."""
        return self.metric, self.task

    def check(self, history: History) -> Breach | None:
        """Why the run should stop, or None."""
        commitment = _lowest_and_latest(history, self.metric, self.min_epochs)
        task = _lowest_and_latest(history, self.task, self.min_epochs)
        if commitment is None or task is None:
            return None
        (at, lowest, latest), (best_at, best, now) = commitment, task
        if latest <= self.factor * lowest or now <= self.worse * best:
            return None
        sentence = (
            f"{self.metric} climbed to {latest:.4g}, above {self.factor:g} times its minimum of "
            f"{lowest:.4g} at epoch {at}, while {self.task} rose to {now:.4g} from {best:.4g} "
            f"at epoch {best_at}"
        )
        return Breach(sentence, self.metric, latest, self.factor * lowest)


class CodebookCollapse(_Rule):
    """Most codes are never chosen: the tokenizer says little, however well it reconstructs.

    Stops when `metric` was below `floor` in the last `patience` reports, and the latest is not
    the highest yet: a codebook that comes back to life is spared. A validation set smaller than
    the codebooks cannot use all of them, so a floor belongs to a size of data.
    """

    kind: Literal["codebook_collapse"] = "codebook_collapse"
    metric: str = "quality/utilization"
    floor: float = Field(0.2, gt=0)
    patience: int = Field(3, ge=1)
    min_epochs: int = Field(10, ge=1)

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics without which it is silent."""
        return (self.metric,)

    def check(self, history: History) -> Breach | None:
        """Why the run should stop, or None."""
        if not _reported(history, self.metric, self.min_epochs):
            return None
        values = list(_finite(history, self.metric).values())
        low = values[-self.patience :]
        if len(low) < self.patience or max(low) >= self.floor:
            return None
        if values[-1] > max(values[:-1], default=math.inf):
            return None
        sentence = (
            f"{self.metric} {values[-1]:.4g} is below the floor of {self.floor:.4g}, "
            f"as in each of the last {self.patience} reports"
        )
        return Breach(sentence, self.metric, values[-1], self.floor)


class Divergence(_Rule):
    """The task's own loss exceeds `factor` times its minimum so far: the run is getting worse."""

    kind: Literal["divergence"] = "divergence"
    metric: str = "val/traj"
    factor: float = Field(3.0, gt=1)
    min_epochs: int = Field(2, ge=1)

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics without which it is silent."""
        return (self.metric,)

    def check(self, history: History) -> Breach | None:
        """Why the run should stop, or None."""
        found = _lowest_and_latest(history, self.metric, self.min_epochs)
        if found is None:
            return None
        at, lowest, latest = found
        if latest <= self.factor * lowest:
            return None
        sentence = (
            f"{self.metric} rose to {latest:.4g}, above {self.factor:g} times "
            f"its minimum of {lowest:.4g} at epoch {at}"
        )
        return Breach(sentence, self.metric, latest, self.factor * lowest)


class Plateau(_Rule):
    """The task no longer improves: what the run has learned in its last epochs is next to nothing.

    Stops when the best so far is not below the best of `patience` reports ago by a share of
    `improvement`; without `patience`, not below the first report. The latter is for runs that
    never leave the level of the untrained model. A schedule that anneals the learning rate wakes
    many a run late, so a short patience stops good ones: see its certificate.
    """

    kind: Literal["plateau"] = "plateau"
    metric: str = "val/traj"
    patience: int | None = Field(None, ge=1)
    improvement: float = Field(0.05, ge=0, lt=1)
    min_epochs: int = Field(6, ge=2)

    @property
    def watched(self) -> tuple[str, ...]:
        """The metrics without which it is silent."""
        return (self.metric,)

    def check(self, history: History) -> Breach | None:
        """Why the run should stop, or None."""
        values = list(_finite(history, self.metric).values())
        patience = len(values) - 1 if self.patience is None else self.patience
        if not _reported(history, self.metric, self.min_epochs) or not 0 < patience < len(values):
            return None
        best, before = min(values), min(values[: len(values) - patience])
        limit = (1 - self.improvement) * before
        if best <= limit and best < before:
            return None
        sentence = (
            f"{self.metric} {best:.4g} is not {self.improvement:.1%} below the {before:.4g} of "
            f"{patience} reports ago"
        )
        return Breach(sentence, self.metric, best, limit)


GUARDS: dict[str, type[CommitClimb | CommitDrift | CodebookCollapse | Divergence | Plateau]] = {
    "commit_climb": CommitClimb,
    "commit_drift": CommitDrift,
    "codebook_collapse": CodebookCollapse,
    "divergence": Divergence,
    "plateau": Plateau,
}
Guard = Annotated[
    CommitClimb | CommitDrift | CodebookCollapse | Divergence | Plateau,
    Field(discriminator="kind"),
]


class NonfiniteGradients(Config):
    """Within an epoch: too many updates skipped because a gradient was NaN or infinite.

    An occasional one is skipped and counted. A run whose weights have left the stable region
    skips every update from there on and learns nothing (seeds: "uniform NaN/Inf gradients after
    batch 1657"), so it ends in the middle of the epoch, not hours later.
    """

    max_fraction: float = Field(0.5, gt=0, le=1)
    max_consecutive: int = Field(8, ge=1)
    min_updates: int = Field(4, ge=1)

    def check_updates(self, *, skipped: int, tried: int, consecutive: int) -> str | None:
        """Why the run should stop, given the epoch's updates `tried` and `skipped` so far."""
        if consecutive >= self.max_consecutive:
            return f"{consecutive} updates in a row were skipped for NaN or infinite gradients"
        if tried >= self.min_updates and skipped > self.max_fraction * tried:
            return f"{skipped} of {tried} updates were skipped for NaN or infinite gradients"
        return None


def _reported(history: History, metric: str, min_epochs: int) -> bool:
    """Whether the latest epoch is one to judge by, and has the metric."""
    latest = max(history, default=0)
    return latest >= min_epochs and metric in history[latest]


def _finite(history: History, metric: str) -> dict[int, float]:
    """The finite values of `metric` by epoch."""
    return {
        epoch: metrics[metric]
        for epoch, metrics in history.items()
        if metric in metrics and math.isfinite(metrics[metric])
    }


def _lowest_and_latest(
    history: History, metric: str, min_epochs: int
) -> tuple[int, float, float] | None:
    """Epoch and value of the minimum, and the latest value; None when there is nothing to judge."""
    values = _finite(history, metric)
    if not _reported(history, metric, min_epochs) or not values:
        return None
    at = min(values, key=lambda epoch: (values[epoch], epoch))
    return at, values[at], values[max(values)]
