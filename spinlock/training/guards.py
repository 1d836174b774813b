"""Guards: rules over one run's own history that say, in a sentence, why it should stop.

A scheduler compares runs; a guard judges one. Guards are frozen, have no clock and no randomness,
and see only what was reported, so a resumed or replayed run is judged as the first time.
`check` takes the metrics of every epoch so far, oldest first, the latest included.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spinlock.config import Config

History = Sequence[Mapping[str, float]]


class CommitClimb(Config):
    """The commitment loss leaves its own minimum behind: the run drifts off the codebooks.

    Stops when `metric` exceeds `factor` times its own minimum so far, or `ceiling`. Safe for a
    NOA, whose VQ-VAE is frozen. Not for a VQ-VAE in training: the latents' variance grows as it
    learns, and the raw commitment loss of its best runs with it (seeds: "L_commit increasing";
    measured on recorded runs: above twice its minimum fires on none of the better half of NOA
    runs, and on all of the best VQ-VAE runs).
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

    def check(self, history: History) -> str | None:
        """Why the run should stop, or None."""
        values = _finite(history, self.metric)
        if len(history) < self.min_epochs or not values or not _reported(history, self.metric):
            return None
        (_, latest), (at, lowest) = values[-1], min(values, key=lambda pair: pair[1])
        if self.ceiling is not None and latest > self.ceiling:
            return f"{self.metric} {latest:.4g} is above the ceiling of {self.ceiling:.4g}"
        if self.factor is not None and latest > self.factor * lowest:
            return (
                f"{self.metric} climbed to {latest:.4g}, above {self.factor:g} times "
                f"its minimum of {lowest:.4g} at epoch {at}"
            )
        return None


class Divergence(Config):
    """The task's own loss exceeds `factor` times its minimum so far: the run is getting worse."""

    kind: Literal["divergence"] = "divergence"
    metric: str = "val/traj"
    factor: float = Field(3.0, gt=1)
    min_epochs: int = Field(2, ge=1)

    def check(self, history: History) -> str | None:
        """Why the run should stop, or None."""
        values = _finite(history, self.metric)
        if len(history) < self.min_epochs or not values or not _reported(history, self.metric):
            return None
        (_, latest), (at, lowest) = values[-1], min(values, key=lambda pair: pair[1])
        if latest <= self.factor * lowest:
            return None
        return (
            f"{self.metric} rose to {latest:.4g}, above {self.factor:g} times "
            f"its minimum of {lowest:.4g} at epoch {at}"
        )


Guard = Annotated[CommitClimb | Divergence, Field(discriminator="kind")]
GUARDS: dict[str, type[CommitClimb | Divergence]] = {
    "commit_climb": CommitClimb,
    "divergence": Divergence,
}


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


def _reported(history: History, metric: str) -> bool:
    return bool(history) and metric in history[-1]


def _finite(history: History, metric: str) -> list[tuple[int, float]]:
    """(epoch, value) of the finite values of `metric`."""
    return [
        (epoch, metrics[metric])
        for epoch, metrics in enumerate(history, start=1)
        if metric in metrics and math.isfinite(metrics[metric])
    ]
