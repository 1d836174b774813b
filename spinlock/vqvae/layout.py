"""The tokenizer's layout: how many latents and codes each category has at each level.

Codebooks are numbered category-major: category 0 level 0, category 0 level 1, ..., category 1
level 0, ...
"""

import math
from collections.abc import Sequence

from pydantic import Field

from spinlock.config import Config
from spinlock.vqvae.categories import Categories
from spinlock.vqvae.config import VQVAEConfig


class Level(Config):
    """One codebook: `num_tokens` codes of `latent_dim` entries."""

    num_tokens: int = Field(ge=1)
    latent_dim: int = Field(ge=1)


class Layout(Config):
    """Everything a VQ-VAE's tensors are shaped by, besides its configuration.

    `groups[g]` are category g's indices into the `features` inputs; `levels[g]` its codebooks,
    equally many for every category.
    """

    features: int = Field(ge=1)
    groups: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[Level, ...], ...]

    @property
    def codebooks(self) -> tuple[Level, ...]:
        """All codebooks, category-major."""
        return tuple(level for levels in self.levels for level in levels)

    @property
    def num_levels(self) -> int:
        return len(self.levels[0])

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together."""
        return sum(level.latent_dim for level in self.codebooks)


def plan(
    config: VQVAEConfig,
    categories: Categories,
    training_samples: int,
    ratios: Sequence[Sequence[float]] | None = None,
) -> Layout:
    """Sizes for `categories`, trained on `training_samples` samples.

    `ratios` are each category's own (see `spinlock.vqvae.ratios`), needed when the configuration's
    are adaptive; otherwise the configuration's hold for all.

    For a category of n features, at level l with compression ratio r_l:
      latent_dim = 4 ceil(n r_l / 4);
      num_tokens = 7 log2(n + 1) / 2^l, at least 4, and at most one per `samples_per_code`
    samples. The first two are the research prototype's rules, with log2(n + 1) for log2(n), so
    that a category of one feature has codes. The ceiling is ours: a codebook larger than its data
    can fill has dead codes by construction, and its utilization says nothing. It never
    goes below 2.
    """
    most = max(2, training_samples // config.samples_per_code)
    if ratios is None:
        ratios = [config.ratios] * len(categories.groups)
    return Layout(
        features=sum(len(group) for group in categories.groups),
        groups=categories.groups,
        levels=tuple(
            tuple(
                Level(
                    latent_dim=4 * math.ceil(len(group) * ratio / 4),
                    num_tokens=min(most, max(4, int(7 * math.log2(len(group) + 1) / 2**level))),
                )
                for level, ratio in enumerate(own)
            )
            for group, own in zip(categories.groups, ratios, strict=True)
        ),
    )
