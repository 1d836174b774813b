"""How good a tokenizer is, on a set of samples it was not trained on.

All are properties of the set as a whole, and do not depend on how it is batched.
Letters as in `model.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.vqvae.losses import VQPrediction, codebook_cosines, distance_correlation, predict
from spinlock.vqvae.model import VQVAE


@dataclass(frozen=True)
class Quality:
    """`reconstruction` is 1 - MSE on standardized features, at least 0 and 1 when exact.

    Per codebook, category-major: `utilization`, the share of its codes that the set uses (a
    set smaller than a codebook cannot use all of it); `perplexity`, the exponential of the
    entropy of the codes, from 1 to the number of codes; `code_cosine`, the mean squared cosine
    of different codes in use. `topography` correlates features' distances with those of the
    quantized latents; the whole set's pairs are compared, up to the first 4096 items.
    """

    reconstruction: float
    topography: float
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
    errors = [(part.reconstruction - part.target).square().sum() for part in parts]
    mse = float(torch.stack(errors).sum()) / standardized.numel()
    used = _histogram(codes, model.bank.codebooks.shape[1])
    sizes = torch.tensor(model.bank.sizes, device=used.device)
    shares = used / used.sum(-1, keepdim=True)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return Quality(
        reconstruction=max(0.0, 1.0 - mse),
        topography=_topography(parts),
        utilization=_listed((used > 0).sum(-1) / sizes),
        perplexity=_listed(entropy.exp()),
        code_cosine=_listed(codebook_cosines(model.bank.codebooks, used > 0)),
    )


def _histogram(codes: Int[Tensor, "N Q"], size: int) -> Float[Tensor, "Q K"]:
    count = codes.shape[1]
    first = torch.arange(count, device=codes.device) * size
    flat = torch.bincount((codes + first).flatten(), minlength=count * size)
    return flat.view(count, size).to(torch.float64)


def _topography(parts: list[VQPrediction]) -> float:
    target = torch.cat([part.target for part in parts])[:4096]
    vectors = torch.cat([part.vectors.flatten(1) for part in parts])[:4096]
    return float(distance_correlation(target, vectors))


def _listed(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
