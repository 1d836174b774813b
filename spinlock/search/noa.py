"""The NOA as a trainable, and the table of everything that searches can train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinlock.config import Config
from spinlock.search.trainable import Trainable
from spinlock.training.config import NOATraining
from spinlock.training.evaluate import evaluate
from spinlock.training.inputs import open_inputs
from spinlock.training.trainer import Trainer


class NOA:
    """The three-loss NOA against a frozen tokenizer."""

    name = "noa"
    model: type[Config] = NOATraining
    metrics = (
        *("train/total", "train/traj", "train/commit", "train/latent"),
        *("val/traj", "val/commit", "val/latent"),
    )

    def epochs(self, config: Config) -> int:
        return _noa(config).epochs

    def build(self, config: Config) -> Trainer:
        return Trainer(_noa(config))

    def facts(self, config: Config) -> dict[str, Any]:
        """Fingerprints of the dataset and of the tokenizer's weights."""
        return dict(open_inputs(_noa(config)).facts)

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


TRAINABLES: dict[str, Trainable] = {"noa": NOA()}


def _noa(config: Config) -> NOATraining:
    if not isinstance(config, NOATraining):
        raise TypeError(f"a {type(config).__name__} does not describe a NOA's training")
    return config
