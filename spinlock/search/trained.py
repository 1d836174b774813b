"""What every training run of ours is to a search; the kinds differ in names and metrics alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spinlock.config import Config
from spinlock.search.certificate import objection
from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.evaluate import evaluate
from spinlock.training.footprint import Footprint
from spinlock.training.guards import Guard
from spinlock.training.trainer import Trainer


class Trained(ABC):
    """A Trainable around the one Trainer; `name` is that of its task and of its artifacts."""

    name: str
    model: type[NOATraining] | type[VQVAETraining]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    weighed: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def facts(self, config: Config) -> dict[str, Any]:
        """Fingerprints of the files that a run stands on."""

    @abstractmethod
    def footprint(self, config: Config) -> Footprint:
        """What the run's memory grows with."""

    def objection(self, guard: Guard) -> str | None:
        """What the recorded runs that are shipped say against the guard."""
        return objection(self.name, guard)

    def reporting(self, config: Config) -> Sequence[int]:
        """Every `val_every_n_epochs`-th epoch, and the last."""
        run = self.own(config)
        every = range(run.val_every_n_epochs, run.epochs + 1, run.val_every_n_epochs)
        return tuple(dict.fromkeys([*every, run.epochs]))

    def build(self, config: Config) -> Trainer:
        return Trainer(self.own(config))

    def export(
        self,
        config: Config,
        checkpoint: Path,
        out: Path,
        *,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        trainer = self.build(config)
        trainer.restore(checkpoint)
        trainer.task.export(out, dict(metrics), dict(provenance))

    def evaluate(self, artifact: Path) -> dict[str, float]:
        return evaluate(artifact, self.name)

    def own(self, config: Config) -> NOATraining | VQVAETraining:
        """`config`, which must be of this kind."""
        if not isinstance(config, self.model):
            raise TypeError(
                f"a {type(config).__name__} does not describe the training of {self.name}"
            )
        return config
