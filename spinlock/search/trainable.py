"""What a search can train: a configuration class, its metrics, and a trainer built from it.

The search knows a trainer only by these protocols, and a trainer knows nothing of the search:
it yields a report after each epoch, and whoever drives it decides what to do with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spinlock.config import Config
from spinlock.training.footprint import Footprint
from spinlock.training.guards import Guard


@runtime_checkable
class StopLike(Protocol):
    """Why a trainer ended its own run: `kind` is nonfinite, memory or early_stopping."""

    @property
    def kind(self) -> str: ...
    @property
    def sentence(self) -> str: ...


@runtime_checkable
class ReportLike(Protocol):
    """An epoch, counted from 1. With a `stop` it is the last, and metrics may be NaN."""

    @property
    def epoch(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def stop(self) -> StopLike | None: ...


@runtime_checkable
class TrainerLike(Protocol):
    """One run. `restore` raises ArtifactError when the checkpoint is damaged.

    After each step it calls `on_step`, with itself, where one is set; it can be saved there too.
    """

    on_step: Callable[[Any], None] | None

    def epochs(self) -> Iterator[ReportLike]: ...
    def save(self, directory: Path) -> None: ...
    def restore(self, directory: Path) -> None: ...


@runtime_checkable
class Trainable(Protocol):
    """A kind of training that searches run. Picklable: it travels to the workers."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> type[Config]:
        """The configuration class; a search parameter's name is a dotted path in it."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that a report may have, and so what an objective may name."""

    @property
    def optional(self) -> Mapping[str, str]:
        """Metrics that only a run with a certain setting reports, each with that setting."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of them that tables show beside the objectives."""

    @property
    def weighed(self) -> Mapping[str, tuple[str, ...]]:
        """Metrics that are weighted sums, each with the settings that are its weights.

        Where a search varies one of them, the metric compares nothing and is no objective.
        """

    def objection(self, guard: Guard) -> str | None:
        """What recorded runs of this kind say against the guard; None if they certify it."""

    def reporting(self, config: Config) -> Sequence[int]:
        """The epochs after which a run reports when nothing stops it, in order."""

    def footprint(self, config: Config) -> Footprint | None:
        """What the run's memory grows with; None where micro-batches mean nothing to it."""

    def build(self, config: Config) -> TrainerLike:
        """A trainer at its start, in this process, which may be one of a data-parallel group."""

    def facts(self, config: Config) -> dict[str, Any]:
        """What the training stands on: fingerprints of its data and of what it aligns with."""

    def export(
        self,
        config: Config,
        checkpoint: Path,
        out: Path,
        *,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write the model in a checkpoint as an artifact directory that loads without Ray."""

    def evaluate(self, artifact: Path) -> dict[str, float]:
        """`val/` and `quality/` metrics of an exported artifact, computed anew from the files."""
