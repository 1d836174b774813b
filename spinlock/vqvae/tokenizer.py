"""The trained tokenizer as one frozen module: from trajectories to latents and codes.

    trajectory -> features -> Standardizer -> encoders -> latents -> nearest codes

On disk it is a `spinlock.artifact` of kind "vqvae": its config is a `TokenizerConfig`, its weights
the state of the standardizer and of the VQ-VAE. Letters as in `model.py`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field, ValidationError
from torch import Tensor, nn

from spinlock import artifact
from spinlock.config import Config
from spinlock.errors import ArtifactError
from spinlock.features import FeatureConfig, Standardizer, StandardizerConfig, extract
from spinlock.vqvae.categories import Categories
from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.layout import Layout
from spinlock.vqvae.model import VQVAE

KIND = "vqvae"
WEIGHTS = 2
"""Counts the ways in which the weights have been named and laid out; a cache must heed it."""
_OF_THE_FIRST = "vqvae.encoder.3.weight"


class TokenizerConfig(Config):
    """What rebuilds a tokenizer around its weights, and what its trajectories must be.

    `frames` counts the initial condition; it is None for features that were stored, not computed,
    which no trajectory has. `grid` is (height, width).
    """

    features: FeatureConfig
    standardizer: StandardizerConfig
    categories: Categories
    vqvae: VQVAEConfig
    layout: Layout
    frames: int | None = Field(ge=1)
    channels: int = Field(ge=1)
    grid: tuple[int, int]


ABSENT = -1e9
"""The logit of a code that a codebook does not have."""


@dataclass(frozen=True)
class Tokenized:
    """A trajectory as the tokenizer sees it.

    `features`, standardized, and `latents` have a gradient to the trajectory; `quantized` are the
    codes' vectors side by side and have none; `codes` are category-major.
    """

    features: Float[Tensor, "B K"]
    latents: Float[Tensor, "B V"]
    quantized: Float[Tensor, "B V"]
    codes: Int[Tensor, "B Q"]


class Tokenizer(nn.Module):
    """A frozen copy of `standardizer` and `vqvae`, behind the features that they were fitted on.

    Its parameters take no gradient and it stays in eval mode, whatever its parent does: an item's
    latents are a function of its trajectory alone.
    """

    def __init__(
        self,
        feature_config: FeatureConfig,
        standardizer: Standardizer,
        categories: Categories,
        vqvae: VQVAE,
        *,
        frames: int | None,
        channels: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        if len(standardizer.names) != vqvae.layout.features:
            raise ValueError(
                f"{len(standardizer.names)} standardized features, "
                f"but the VQ-VAE reads {vqvae.layout.features}."
            )
        self.feature_config = feature_config
        self.categories = categories
        self.frames, self.channels, self.grid = frames, channels, grid
        self.standardizer = copy.deepcopy(standardizer)
        self.vqvae = copy.deepcopy(vqvae)
        self.requires_grad_(False)
        self.train(False)

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together, V."""
        return self.vqvae.latent_dim

    @property
    def inputs(self) -> int:
        """Standardized features that the VQ-VAE reads, K."""
        return len(self.standardizer.names)

    def train(self, mode: bool = True) -> "Tokenizer":
        """Stay in eval mode: dropout, or codebooks that move, would change what it was."""
        del mode
        return super().train(False)

    def forward(self, trajectory: Float[Tensor, "B T C H W"]) -> Tokenized:
        """Raises ArtifactError for another number of frames or channels, or another grid."""
        frames, channels, height, width = trajectory.shape[1:]
        self.expect(frames=frames, channels=channels, grid=(height, width))
        return self.align(extract(trajectory, self.feature_config))

    def align(self, features: Float[Tensor, "B D"]) -> Tokenized:
        """As `forward`, from raw features."""
        standardized = self.standardizer(features)
        rows = self.vqvae.latent_rows(standardized)
        codes = self.vqvae.bank.assign(rows)
        return Tokenized(standardized, rows.T, self.vqvae.bank.rows(codes).T, codes)

    def reconstruct(self, flat: Float[Tensor, "B V"]) -> Float[Tensor, "B K"]:
        """Standardized features from all vectors side by side."""
        return self.vqvae.reconstruct(flat)

    def soft_codes(
        self, latents: Float[Tensor, "B V"], temperature: float = 1.0
    ) -> Float[Tensor, "B Q K"]:
        """Logarithms of soft token assignments: log softmax_k(-|z - e_k|^2 / (temperature s)).

        s is the codebook's own scale, the mean squared distance from a code to the nearest other,
        so that one temperature serves all codebooks. Codes beyond a codebook's own have ABSENT.
        """
        bank = self.vqvae.bank
        books = bank.codebooks
        near = torch.cdist(books, books).square()
        near = near.masked_fill(~(bank.code_mask[:, None] & bank.code_mask[:, :, None]), torch.inf)
        near.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest = near.amin(-1)
        found = nearest.isfinite()
        scale = nearest.where(found, 0.0).sum(-1) / found.sum(-1).clamp_min(1)
        points = self.vqvae.unflatten(latents).transpose(0, 1)
        distances = (
            points.square().sum(-1, keepdim=True)
            + books.square().sum(-1)[:, None]
            - 2 * points @ books.mT
        )
        logits = -distances / (temperature * scale.clamp_min(1e-12))[:, None, None]
        logits = logits.masked_fill(~bank.code_mask[:, None], ABSENT)
        return logits.log_softmax(-1).transpose(0, 1)

    def expect(self, *, frames: int, channels: int, grid: tuple[int, int]) -> None:
        """Raises ArtifactError unless trajectories of this shape are what it was trained on."""
        if self.frames is None:
            raise ArtifactError(
                "This tokenizer was trained on features stored in a file "
                f"({', '.join(self.feature_config.families)}), which trajectories do not have. "
                "Train one on computed features."
            )
        faults = [
            f"{what}: {expected} expected, {found} found"
            for what, expected, found in (
                ("frames (the initial one included)", self.frames, frames),
                ("channels", self.channels, channels),
                ("grid", self.grid, grid),
            )
            if expected != found
        ]
        if faults:
            raise ArtifactError(
                f"This tokenizer was trained on other trajectories: {'; '.join(faults)}. "
                "Train one on this data, or give data and a rollout of its size."
            )

    @property
    def config(self) -> TokenizerConfig:
        """What rebuilds it, less the weights."""
        return TokenizerConfig(
            features=self.feature_config,
            standardizer=self.standardizer.config,
            categories=self.categories,
            vqvae=self.vqvae.config,
            layout=self.vqvae.layout,
            frames=self.frames,
            channels=self.channels,
            grid=self.grid,
        )

    def save(self, path: Path, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write the artifact directory in one step, replacing one that stands there."""
        artifact.save(
            path,
            kind=KIND,
            config=self.config.model_dump(mode="json"),
            weights=self.state_dict(),
            metrics=metrics,
            provenance=provenance,
        )

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """The tokenizer in directory `path`, on the CPU. Raises ArtifactError if it is not one.

        The global random generator is left as it was.
        """
        found = artifact.load(path, KIND)
        try:
            config = TokenizerConfig.model_validate(found.config)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise ArtifactError(
                f"{path}: its config is damaged: {place}: {fault['msg']}."
            ) from None
        with torch.random.fork_rng(devices=[]):  # building draws weights that are then replaced
            standardizer = Standardizer(config.standardizer)
            vqvae = VQVAE(config.vqvae, config.layout)
        tokenizer = cls(
            config.features,
            standardizer,
            config.categories,
            vqvae,
            frames=config.frames,
            channels=config.channels,
            grid=config.grid,
        )
        if _OF_THE_FIRST in found.weights:
            raise ArtifactError(
                f"{path}: its weights are laid out as an earlier version did. Train it again."
            )
        try:
            tokenizer.load_state_dict(found.weights)
        except RuntimeError as error:
            raise ArtifactError(f"{path}: its weights do not fit its config: {error}") from None
        return tokenizer
