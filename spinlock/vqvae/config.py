"""Every hyperparameter of the tokenizer: its categories, sizes, codebooks and loss weights.

Names and defaults are those of the project's production recipe; the sizes that it leaves open
(`hidden_dim` and below) are the research prototype's.
"""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from spinlock.config import Config

ADAPTIVE = "auto"
"""`compression_ratios` that `spinlock.vqvae.ratios` fits to each category."""
STRATEGIES = ("balanced", "dimensionality", "information")


def _ratios(text: str) -> str:
    kind, _, strategy = text.partition(":")
    if kind != ADAPTIVE:
        parse_ratios(text)
    elif strategy not in ("", *STRATEGIES):
        raise ValueError(
            f"there is no strategy {strategy!r} for adaptive ratios; there are "
            f"{', '.join(f'{ADAPTIVE}:{name}' for name in STRATEGIES)}"
        )
    return text


def parse_ratios(text: str) -> tuple[float, ...]:
    """ "0.5:1:1.5" -> (0.5, 1.0, 1.5): latent entries per feature, one per level.

    Raises ValueError unless every part is a positive number.
    """
    try:
        ratios = tuple(float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError("expected numbers with colons between them, as in '0.5:1:1.5'") from None
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        raise ValueError("every compression ratio must be a positive number")
    return ratios


class VQVAEConfig(Config):
    """How a tokenizer is sized, trained and kept alive. JSON-able by `model_dump(mode="json")`."""

    # Sizes.
    embedding_dim: int = Field(126, ge=1)
    hidden_dim: int = Field(512, ge=1)
    decoder_hidden_dim: int = Field(256, ge=1)
    partial_hidden_dim: int = Field(128, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    compression_ratios: Annotated[str, AfterValidator(_ratios)] = "0.5:1:1.5"  # or auto[:how]
    samples_per_code: int = Field(10, ge=1)

    # Loss weights; the reconstruction has weight 1.
    commitment_cost: float = Field(0.5, ge=0)
    orthogonality_weight: float = Field(0.1, ge=0)
    informativeness_weight: float = Field(0.1, ge=0)
    topo_weight: float = Field(0.45, ge=0)
    topo_samples: int = Field(1024, ge=3)

    # Codebooks. The interval counts updates of the optimizer.
    ema_decay: float = Field(0.995, ge=0, lt=1)
    dead_code_reset_interval: int = Field(10_000, ge=1)
    dead_code_threshold: float = Field(10.0, ge=0, le=100)

    # Categories of features: found by clustering, or each with the names of its features.
    category_assignment: Literal["auto"] | dict[str, tuple[str, ...]] = "auto"
    num_categories_auto: int | None = Field(None, ge=1)
    max_clusters: int = Field(50, ge=1)
    min_features_per_category: int = Field(3, ge=1)
    orthogonality_target: float = Field(0.25, gt=0, le=1)

    @property
    def ratio_strategy(self) -> str | None:
        """How adaptive ratios are found; None when `compression_ratios` are numbers."""
        kind, _, strategy = self.compression_ratios.partition(":")
        return (strategy or "balanced") if kind == ADAPTIVE else None

    @property
    def ratios(self) -> tuple[float, ...]:
        """`compression_ratios` as numbers, coarsest level first; ValueError if adaptive."""
        return parse_ratios(self.compression_ratios)
