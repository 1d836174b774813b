"""How good a tokenizer is, on a set of samples it was not trained on.

All are properties of the set as a whole, and do not depend on how it is batched.
Letters as in `model.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.vqvae.categories import likeness
from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.losses import (
    VQPrediction,
    codebook_cosines,
    distance_correlation,
    predict,
    weights,
)
from spinlock.vqvae.model import VQVAE

TARGETS = {
    "reconstruction_quality": (">", 0.90),
    "utilization": (">", 0.80),
    "category_orthogonality": ("<", 0.25),
    "topography": (">", 0.85),
}
"""What a production run is expected to reach (seeds: VQ-VAE training configurations).

`category_orthogonality` is the partition's own, on the features it was found on: no training moves
it. The other three are measured on held-out samples.
"""

MOST_PAIRED = 4096
MOST_PAIRED_PER_CODEBOOK = 1024


@dataclass(frozen=True)
class Quality:
    """`reconstruction` is 1 - MSE on standardized features, at least 0 and 1 when exact.

    Per category: `category_reconstruction`, the same of its own features, and
    `category_orthogonality`, the mean |r| of its centroid with the others' in this set. Per
    codebook, category-major: `utilization`, the share of its codes that the set uses (a set
    smaller than a codebook cannot use all of it); `perplexity`, the exponential of the entropy of
    the codes, from 1 to the number of codes; `code_cosine`, the mean squared cosine of different
    codes in use; `codebook_topography`, the correlation of the category's features' distances with
    those of the codebook's vectors, over the first 1024 items. `topography` correlates the
    distances of all features with those of all quantized latents, over the first 4096 items.
    `relative_commitment` is the mean |z - z_q|^2 over the variance of z: of the latents'
    spread, the share that the codes do not explain.
    """

    reconstruction: float
    category_reconstruction: tuple[float, ...]
    category_orthogonality: tuple[float, ...]
    topography: float
    codebook_topography: tuple[float, ...]
    relative_commitment: float
    utilization: tuple[float, ...]
    perplexity: tuple[float, ...]
    code_cosine: tuple[float, ...]

    def summary(self) -> dict[str, float]:
        """One number each, means over the codebooks."""
        count = len(self.utilization)
        return {
            "reconstruction_quality": self.reconstruction,
            "topography": self.topography,
            "utilization": sum(self.utilization) / count,
            "perplexity": sum(self.perplexity) / count,
            "code_cosine": sum(self.code_cosine) / count,
        }


@torch.no_grad()
def quality(model: VQVAE, standardized: Float[Tensor, "N D"], batch: int = 4096) -> Quality:
    """Measure `model` in eval mode, and put it back into the mode it was in."""
    was_training = model.training
    model.eval()
    parts = [predict(model, part) for part in torch.split(standardized, batch)]
    model.train(was_training)
    codes = torch.cat([part.codes for part in parts])
    error = sum(
        ((part.reconstruction - part.target).square().sum(0) for part in parts),
        torch.zeros((), device=codes.device),
    ) / len(standardized)
    used = _histogram(codes, model.bank.codebooks.shape[1])
    sizes = torch.tensor(model.bank.sizes, device=used.device)
    shares = used / used.sum(-1, keepdim=True)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return Quality(
        reconstruction=max(0.0, 1.0 - float(error.mean())),
        category_reconstruction=tuple(
            max(0.0, 1.0 - float(error[list(group)].mean())) for group in model.layout.groups
        ),
        category_orthogonality=tuple(likeness(standardized.cpu().numpy(), model.layout.groups)),
        topography=_topography(parts),
        codebook_topography=_codebook_topography(model, parts),
        relative_commitment=_relative_commitment(parts),
        utilization=_listed((used > 0).sum(-1) / sizes),
        perplexity=_listed(entropy.exp()),
        code_cosine=_listed(codebook_cosines(model.bank.codebooks, used > 0)),
    )


def reference_loss(terms: Mapping[str, float]) -> float:
    """The terms' sum with the production recipe's weights, whatever a run was trained with.

    So runs with other weights compare, and a search cannot win by weighing a term with 0.
    """
    return sum(weight * terms[name] for name, weight in weights(VQVAEConfig()).items())


def composite(
    loss: float, found: Quality, *, loss_weight: float, topo_weight: float, quality_weight: float
) -> float:
    """Lower is better: loss, topography and reconstruction in one number (the seeds' composite).

        w_loss L + w_topo (1 - topography) + w_quality (1 - reconstruction)

    The seed names the three parts and their weights 1, 0.5, 0.5; the formula is ours. L is the
    `reference_loss`.
    """
    return (
        loss_weight * loss
        + topo_weight * (1.0 - found.topography)
        + quality_weight * (1.0 - found.reconstruction)
    )


def _histogram(codes: Int[Tensor, "N Q"], size: int) -> Float[Tensor, "Q K"]:
    count = codes.shape[1]
    first = torch.arange(count, device=codes.device) * size
    flat = torch.bincount((codes + first).flatten(), minlength=count * size)
    return flat.view(count, size).to(torch.float64)


def _topography(parts: list[VQPrediction]) -> float:
    target = torch.cat([part.target for part in parts])[:MOST_PAIRED]
    vectors = torch.cat([part.vectors.flatten(1) for part in parts])[:MOST_PAIRED]
    return float(distance_correlation(target, vectors))


def _codebook_topography(model: VQVAE, parts: list[VQPrediction]) -> tuple[float, ...]:
    target = torch.cat([part.target for part in parts])[:MOST_PAIRED_PER_CODEBOOK]
    vectors = torch.cat([part.vectors for part in parts])[:MOST_PAIRED_PER_CODEBOOK]
    levels = model.layout.num_levels
    return tuple(
        float(distance_correlation(target[:, list(group)], vectors[:, category * levels + level]))
        for category, group in enumerate(model.layout.groups)
        for level in range(levels)
    )


def _relative_commitment(parts: list[VQPrediction]) -> float:
    latents = torch.cat([part.latents.flatten(1) for part in parts])
    vectors = torch.cat([part.vectors.flatten(1) for part in parts])
    variance = float((latents - latents.mean(0)).square().mean())
    return float((latents - vectors).square().mean()) / variance if variance > 0 else 0.0


def _listed(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
