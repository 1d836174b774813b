"""The tokenizer learning to reconstruct features of ground-truth trajectories through codes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from spinlock.data import TrajectoryDataset, open_dataset
from spinlock.errors import TrainingError
from spinlock.features import Standardizer, extract, feature_names
from spinlock.training.batches import split
from spinlock.training.config import VQVAETraining
from spinlock.training.parallel import World
from spinlock.training.task import Task
from spinlock.vqvae import TERMS, VQVAE, Tokenizer, discover, plan, predict, quality, weights

FEATURES_AT_ONCE = 32
LEAST_SAMPLES = 3


class VQVAETask(Task):
    """A VQ-VAE on standardized features; statistics and categories from the training items only.

    Raises DatasetError or TrainingError when the file cannot give the features asked for.
    """

    selection = "val/reconstruction"

    def __init__(self, config: VQVAETraining, device: torch.device) -> None:
        dataset = open_dataset(config.data.path)
        info = dataset.info
        if info.frames < config.frames:
            raise TrainingError(
                f"{info.path}: frames {config.frames} were asked for; the file holds "
                f"{info.frames}. " + ("Lower frames." if info.frames else "It has no trajectories.")
            )
        self.config, self.device, self.info = config, device, info
        self.facts = {"data": info.fingerprint}
        self.split = split(info, config.data, config.seed)
        if len(self.split.train) < LEAST_SAMPLES:
            raise TrainingError(
                f"{info.path}: {len(self.split.train)} trajectories to train on are fewer than "
                f"the {LEAST_SAMPLES} that correlations of features need."
            )
        items = sorted([*self.split.train, *self.split.validation])
        raw = dict(zip(items, _features(dataset, items, config), strict=True))
        names = feature_names(config.features)
        training = torch.stack([raw[item] for item in self.split.train])
        self.standardizer = Standardizer.fit(training, names, config.cleaning)
        self.standardized = dict(
            zip(items, self.standardizer(torch.stack([raw[i] for i in items])), strict=True)
        )
        training = self._batch(self.split.train)
        self.categories = discover(training.numpy(), self.standardizer.names, config.model)
        vqvae = VQVAE(config.model, plan(config.model, self.categories, len(self.split.train)))
        vqvae.initialise(training)
        self.modules = nn.ModuleDict({"vqvae": vqvae}).to(device)
        self.weights = weights(config.model)

    @property
    def vqvae(self) -> VQVAE:
        module = self.modules["vqvae"]
        assert isinstance(module, VQVAE)
        return module

    def terms(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Every term of the VQ-VAE's loss over the features of `items`."""
        prediction = predict(self.vqvae, self._batch(items).to(self.device))
        return {name: term(prediction) for name, term in TERMS.items()}

    @override
    def validate(self, world: World, micro_batch: int) -> dict[str, float]:
        """Loss terms on the validation items, and how well the codebooks are used.

        Features are small: every rank judges all of them in one batch, whatever the micro-batch,
        because topography and utilization compare items with each other.
        """
        self.modules.eval()
        with torch.no_grad():
            terms = self.terms(self.split.validation)
        measured = quality(self.vqvae, self._batch(self.split.validation).to(self.device))
        return {f"val/{name}": float(value) for name, value in terms.items()} | {
            f"quality/{name}": value for name, value in measured.summary().items()
        }

    def after_update(self) -> None:
        self.vqvae.after_update()

    def discard(self) -> None:
        self.vqvae.discard()

    def export(self, path: Path, metrics: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write a tokenizer: features, standardizer and VQ-VAE, ready to align a NOA with."""
        self.tokenizer().save(
            path,
            metrics=metrics,
            provenance={
                "facts": self.facts,
                "training": self.config.model_dump(mode="json"),
                "categories": self.categories.summary(),
                **provenance,
            },
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer around the VQ-VAE as it is now."""
        return Tokenizer(
            self.config.features,
            self.standardizer,
            self.categories,
            self.vqvae,
            frames=self.config.frames,
            channels=self.info.channels,
            grid=(self.info.height, self.info.width),
        )

    def _batch(self, items: Sequence[int]) -> Tensor:
        return torch.stack([self.standardized[item] for item in items])


@torch.no_grad()
def _features(
    dataset: TrajectoryDataset, items: Sequence[int], config: VQVAETraining
) -> list[Tensor]:
    """Raw features of each item's first frames; a few trajectories in memory at a time."""
    rows: list[Tensor] = []
    for first in range(0, len(items), FEATURES_AT_ONCE):
        part = items[first : first + FEATURES_AT_ONCE]
        rows.extend(extract(dataset.trajectories(part, slice(0, config.frames)), config.features))
    return rows
