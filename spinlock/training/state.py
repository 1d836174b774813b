"""What a run reports, and what changes while it trains: plain values that a checkpoint can hold."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stop:
    """The trainer itself ended the run: a kind for programs and a sentence for people."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class EpochReport:
    """One epoch, counted from 1: its metrics by name, and the stop that it ended with, if any."""

    epoch: int
    metrics: dict[str, float]
    stop: Stop | None = None
    nonfinite: dict[str, int] = field(default_factory=dict)
    """Parameters whose gradient was not finite, and in how many of the epoch's updates."""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "EpochReport":
        """The report that `dataclasses.asdict` made `saved` from."""
        stop = None if saved["stop"] is None else Stop(**saved["stop"])
        return cls(saved["epoch"], saved["metrics"], stop, saved["nonfinite"])


@dataclass(frozen=True)
class UpdateReport:
    """One update of the weights, or one that was skipped because of `nonfinite` gradients."""

    losses: dict[str, float]
    """Means over the batch: `total` weighted, the terms not."""
    gradient_norm: float
    """Before clipping."""
    seconds: float
    nonfinite: tuple[str, ...] = ()


@dataclass
class RunState:
    """Everything that changes while training, outside the modules and the optimizer."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the current epoch done."""
    global_step: int = 0
    micro_batch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    milestone: float = math.inf
    """The last score that was better than the one before it by more than patience asks for."""
    milestone_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of the current epoch's metrics, so that a resumed epoch reports the whole."""
    samples: int = 0
    skipped: int = 0
    consecutive: int = 0
    norm_sum: float = 0.0
    seconds: float = 0.0
    nonfinite: dict[str, int] = field(default_factory=dict)
    """How many of the current epoch's updates each parameter's gradient has spoilt."""

    @property
    def last_report(self) -> EpochReport | None:
        """The report of the last finished epoch."""
        return EpochReport.of(self.history[-1]) if self.history else None

    @property
    def best_report(self) -> EpochReport | None:
        """The report of the epoch with the best score so far; None before a finite one."""
        return EpochReport.of(self.history[self.best_epoch - 1]) if self.best_epoch else None
