"""The tokenizer learning to reconstruct features of ground-truth trajectories through codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from spinlock.config import nearest
from spinlock.data import open_dataset
from spinlock.errors import ConfigError, TrainingError
from spinlock.features import Standardizer
from spinlock.training.batches import Split, split
from spinlock.training.config import VQVAETraining
from spinlock.training.features import raw_features
from spinlock.training.parallel import World
from spinlock.training.task import Task
from spinlock.vqvae import (
    TERMS,
    VQVAE,
    Quality,
    Tokenizer,
    VQVAEConfig,
    category_ratios,
    composite,
    discover,
    plan,
    predict,
    quality,
    reference_loss,
    weights,
)
from spinlock.vqvae.losses import joined
from spinlock.vqvae.metrics import MOST_PAIRED

LEAST_SAMPLES = 3


class VQVAETask(Task):
    """A VQ-VAE on standardized features; statistics and categories from the training items only.

    A sample is a window of a trajectory; those of one operator stand on one side of the split.
    Raises DatasetError or TrainingError when the file cannot give the features asked for.
    """

    def __init__(self, config: VQVAETraining, device: torch.device) -> None:
        dataset = open_dataset(config.data.path)
        info = dataset.info
        self.config, self.device, self.info = config, device, info
        self.facts = {"data": info.fingerprint}
        whole = split(info, config.data, config.seed)
        self.split = Split(
            _windows_of(whole.train, config.windows), _windows_of(whole.validation, config.windows)
        )
        if len(self.split.train) < LEAST_SAMPLES:
            raise TrainingError(
                f"{info.path}: {len(self.split.train)} trajectories to train on are fewer than "
                f"the {LEAST_SAMPLES} that correlations of features need."
            )
        items = sorted([*whole.train, *whole.validation])
        raw = raw_features(
            dataset,
            items,
            config.features,
            config.frames,
            windows=config.windows,
            cache=config.features_cache,
        )
        _refuse_unknown_members(config.model, raw.names)
        samples = _windows_of(items, config.windows)
        rows = dict(zip(samples, raw.values, strict=True))
        training = torch.stack([rows[sample] for sample in self.split.train])
        self.standardizer = Standardizer.fit(training, raw.names, config.cleaning)
        self.standardized = dict(zip(samples, self.standardizer(raw.values), strict=True))
        training = self._batch(self.split.train)
        self.categories = discover(training.numpy(), self.standardizer.names, config.model)
        ratios = category_ratios(config.model, self.categories.groups, training.numpy())
        vqvae = VQVAE(config.model, plan(config.model, self.categories, len(training), ratios))
        vqvae.initialise(training)
        self.modules = nn.ModuleDict({"vqvae": vqvae}).to(device)
        self.weights = weights(config.model)
        self.selection = "quality/composite" if config.checkpoint.use_composite else "val/loss"
        if config.use_torch_compile:  # in place: the names of the weights stay what they are
            for part in (vqvae.encoder, vqvae.projector, vqvae.decoder, vqvae.partial_decoder):
                part.compile()

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

        The model sees a micro-batch at a time; what it says of them is judged as one, because
        topography and utilization compare items with each other. That is small: every rank
        judges all of it. No setting that a search varies enters: `val/loss` weighs the terms as
        the production recipe does, and topography compares as many items whatever `topo_samples`
        is.
        """
        held_out = self._batch(self.split.validation).to(self.device)
        weighed = self.config.checkpoint.model_dump(exclude={"use_composite"})
        return scores(self.vqvae, held_out, micro_batch, **weighed) | {
            "quality/category_orthogonality": self.categories.orthogonality
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
            frames=self.frames,
            channels=self.info.channels,
            grid=(self.info.height, self.info.width),
        )

    @property
    def frames(self) -> int | None:
        """Frames that the features are of; None when they were stored, not computed."""
        if self.config.features.source == "stored":
            return None
        return self.info.frames if self.config.frames is None else self.config.frames

    def quality(self) -> Quality:
        """How good the tokenizer is now on the validation items, per category and codebook."""
        return quality(self.vqvae, self._batch(self.split.validation).to(self.device))

    def _batch(self, items: Sequence[int]) -> Tensor:
        return torch.stack([self.standardized[item] for item in items])


def scores(
    vqvae: VQVAE, standardized: Float[Tensor, "N D"], micro_batch: int, **weighed: float
) -> dict[str, float]:
    """What validation says of `vqvae` in eval mode; `weighed` are the composite's weights."""
    vqvae.eval()
    with torch.no_grad():
        parts = [predict(vqvae, part) for part in torch.split(standardized, micro_batch)]
        prediction = replace(joined(parts), topo_samples=MOST_PAIRED)
        terms = {name: float(term(prediction)) for name, term in TERMS.items()}
    found, loss = quality(vqvae, standardized, micro_batch), reference_loss(terms)
    return (
        {f"val/{name}": value for name, value in terms.items()}
        | {"val/loss": loss, "val/relative_commitment": found.relative_commitment}
        | {f"quality/{name}": value for name, value in found.summary().items()}
        | {"quality/composite": composite(loss, found, **weighed)}
    )


def _windows_of(items: Sequence[int], windows: int) -> list[int]:
    """The numbers of the items' samples."""
    return [item * windows + window for item in items for window in range(windows)]


def _refuse_unknown_members(config: VQVAEConfig, names: Sequence[str]) -> None:
    """A category's feature that does not exist is a slip; one that cleaning drops is none."""
    if config.category_assignment == "auto":
        return
    for category, members in config.category_assignment.items():
        for name in members:
            if name not in names:
                raise ConfigError(
                    f"model.category_assignment.{category}: there is no feature '{name}'. "
                    f"{nearest(name, names)}"
                )
