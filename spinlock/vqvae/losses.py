"""What the tokenizer is trained for: terms of one prediction, weighted and added by the trainer.

Letters as in `model.py`. Each term is a mean, so micro-batches weighted by their share of the
items give the whole batch's gradient; the two exceptions, `topography` and `orthogonality`, compare
items or codes with each other and see one micro-batch at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.model import VQVAE, straight_through


@dataclass(frozen=True)
class VQPrediction:
    """Everything the terms need of one batch, from one forward."""

    target: Float[Tensor, "B D"]
    reconstruction: Float[Tensor, "B D"]
    latents: Float[Tensor, "B Q E"]  # before quantization
    vectors: Float[Tensor, "B Q E"]  # quantized, with the straight-through gradient
    codes: Int[Tensor, "B Q"]
    codebooks: Float[Tensor, "Q K E"]
    partial: Float[Tensor, "B Q N"]
    partial_target: Float[Tensor, "B Q N"]
    widths: Float[Tensor, " Q"]  # features of each codebook's category
    latent_dim: int
    topo_samples: int


Term = Callable[[VQPrediction], Float[Tensor, ""]]


def predict(model: VQVAE, batch: Float[Tensor, "B D"]) -> VQPrediction:
    """One forward over standardized features.

    In training mode the bank remembers the latents for `model.after_update()`.
    """
    latents = model.latents(batch)
    codes = model.bank(latents)
    vectors = straight_through(latents, model.bank.lookup(codes))
    levels = model.layout.num_levels
    return VQPrediction(
        target=batch,
        reconstruction=model.reconstruct(model.flatten(vectors)),
        latents=latents,
        vectors=vectors,
        codes=codes,
        codebooks=model.bank.codebooks,
        partial=model.reconstruct_partially(vectors),
        partial_target=model.grouped(batch).repeat_interleave(levels, 1),
        widths=model.group_mask.sum(-1).repeat_interleave(levels),
        latent_dim=model.latent_dim,
        topo_samples=model.config.topo_samples,
    )


def reconstruction(prediction: VQPrediction) -> Float[Tensor, ""]:
    """mean |x - D(z_q)|^2 over items and features: on standardized features, the variance that
    the tokens do not explain. arXiv:1711.00937, equation 3, first term.
    """
    return F.mse_loss(prediction.reconstruction, prediction.target)


def commitment(prediction: VQPrediction) -> Float[Tensor, ""]:
    """mean |z - sg(z_q)|^2 over items and all latents' entries: it pulls latents to their codes.

    arXiv:1711.00937, equation 3, third term. The second one, which would pull the codes, is
    replaced by the moving averages, as in the paper's appendix A.1.
    """
    difference = prediction.latents - prediction.vectors.detach()
    return difference.square().sum() / (len(difference) * prediction.latent_dim)


def orthogonality(prediction: VQPrediction) -> Float[Tensor, ""]:
    """Mean squared cosine between different codes of one codebook, over the codes in use here.

        mean_q  1 / (n (n - 1))  sum_{i != j} cos(e_i, e_j)^2

    Shin et al., Translation-equivariant Image Quantizer (2021), arXiv:2112.00384, equation 2, as
    squared cosines. A codebook is moved by its latents alone, so the gradient goes there: e_i has
    the code's value, and the gradient of the mean of the latents that chose it, which is
    where the moving average takes it. (In the prototype this term was a constant.) A codebook
    with fewer than two codes in use counts as 0.
    """
    size = prediction.codebooks.shape[1]
    chosen = F.one_hot(prediction.codes.transpose(0, 1), size).to(prediction.latents.dtype)
    counts = chosen.sum(1)
    means = torch.bmm(chosen.transpose(1, 2), prediction.latents.transpose(0, 1))
    means = means / counts.clamp_min(1)[..., None]
    codes = prediction.codebooks + means - means.detach()
    return codebook_cosines(codes, counts > 0).mean()


def codebook_cosines(
    codes: Float[Tensor, "Q K E"], used: Bool[Tensor, "Q K"]
) -> Float[Tensor, " Q"]:
    """Mean squared cosine of the pairs of different `used` codes; 0 where there is no pair."""
    # 1e-6 against codes of norm about sqrt(E): only a code at the origin notices it.
    directions = codes * (codes.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
    cosines = torch.bmm(directions, directions.transpose(1, 2))
    pairs = (used[:, :, None] & used[:, None]).to(codes.dtype) * _off_diagonal(codes[0])
    return (cosines.square() * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def informativeness(prediction: VQPrediction) -> Float[Tensor, ""]:
    """Mean squared error of each codebook's partial decoder on its own category's features.

    Every single token is asked to say something of its category. The prototype asked each for all
    the features, most of which a category knows nothing of.
    """
    error = (prediction.partial - prediction.partial_target).square().sum((0, 2))
    return (error / (len(prediction.partial) * prediction.widths)).mean()


def topography(prediction: VQPrediction) -> Float[Tensor, ""]:
    """0.3 (1 - r(d_x, d_z)) + 0.7 (1 - r(d_z, d_q)): near items should have near tokens.

    r is Pearson's correlation over the pairs of different items among the first `topo_samples`,
    d the Euclidean distance of their features, of their latents side by side and of their quantized
    latents. Brighton & Kirby, Understanding linguistic evolution by visualizing the
    emergence of topographic mappings (2006); weights are the prototype's, which also counted each
    item's zero distance to itself as a pair. With fewer than three items, or distances that are
    all equal, r is 0.
    """
    first = slice(prediction.topo_samples)
    inputs = _distances(prediction.target[first])
    latents = _distances(prediction.latents[first].flatten(1))
    vectors = _distances(prediction.vectors[first].flatten(1))
    preserved = _correlation(inputs, latents)
    kept = _correlation(latents, vectors)
    return 0.3 * (1 - preserved) + 0.7 * (1 - kept)


def distance_correlation(a: Float[Tensor, "B N"], b: Float[Tensor, "B M"]) -> Float[Tensor, ""]:
    """Pearson's r between the items' pairwise distances in `a` and in `b`."""
    return _correlation(_distances(a), _distances(b))


TERMS: dict[str, Term] = {
    "reconstruction": reconstruction,
    "commitment": commitment,
    "orthogonality": orthogonality,
    "informativeness": informativeness,
    "topography": topography,
}


def weights(config: VQVAEConfig) -> dict[str, float]:
    """The weight of each of `TERMS`."""
    return {
        "reconstruction": 1.0,
        "commitment": config.commitment_cost,
        "orthogonality": config.orthogonality_weight,
        "informativeness": config.informativeness_weight,
        "topography": config.topo_weight,
    }


def _distances(points: Float[Tensor, "B N"]) -> Float[Tensor, "B B"]:
    """Euclidean distances of all pairs, 0 on the diagonal.

    From one product, so centred first against cancellation. Where two points coincide, as
    quantized ones do, the square is rounding noise: it is floored at 1e-6 of the mean square,
    where the gradient of the root is 0 instead of up to 1e6.
    """
    points = points - points.mean(0).detach()
    norms = points.square().sum(-1)
    squares = torch.addmm(norms[:, None] + norms, points, points.T, alpha=-2)
    floor = 2e-6 * norms.detach().mean() + 1e-20
    return torch.maximum(squares, floor).sqrt() * _off_diagonal(points)


def _correlation(a: Float[Tensor, "B B"], b: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """Pearson's r over the entries off the diagonal, where both are 0."""
    pairs = max(1, a.numel() - len(a))
    mean_a, mean_b = a.sum() / pairs, b.sum() / pairs
    off = _off_diagonal(a)
    centred_a, centred_b = (a - mean_a) * off, (b - mean_b) * off
    covariance = (centred_a * centred_b).sum() / pairs
    variances = centred_a.square().sum() * centred_b.square().sum() / pairs**2
    # Relative to the fourth power of the mean distance, below which a variance is rounding. The
    # rest is for distances that are all 0: smaller, and its root's derivative overflows.
    return covariance * (variances + 1e-12 * (mean_a * mean_b).square().detach() + 1e-20).rsqrt()


def _off_diagonal(rows: Tensor) -> Float[Tensor, "B B"]:
    return 1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
