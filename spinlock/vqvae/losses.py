"""What the tokenizer is trained for: terms of one prediction, weighted and added by the trainer.

Letters as in `model.py`, K the codes of the largest codebook. Each term is a mean, so
micro-batches weighted by their share of the items give the whole batch's gradient; the two
exceptions, `topography` and `orthogonality`, compare items or codes with each other and see one
micro-batch at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.model import VQVAE, straight_through
from spinlock.vqvae.shelves import pad_rows, pick_rows
from spinlock.vqvae.topography import distance_correlations


@dataclass(frozen=True)
class VQPrediction:
    """Everything the terms need of one batch, from one forward. Rows are those of `model.py`."""

    target: Float[Tensor, "B D"]
    reconstruction: Float[Tensor, "B D"]
    latent_rows: Float[Tensor, "V B"]  # before quantization
    vector_rows: Float[Tensor, "V B"]  # quantized, with the straight-through gradient
    codes: Int[Tensor, "B Q"]
    codebooks: Float[Tensor, "Q K E"]
    entries: Int[Tensor, " V"]  # the rows' places in a flattened [Q, E]
    partial: Float[Tensor, "U B"]
    partial_target: Float[Tensor, "U B"]
    partial_widths: Float[Tensor, " U"]  # how many rows each row's codebook decodes
    topo_samples: int

    @property
    def latents(self) -> Float[Tensor, "B Q E"]:
        """Before quantization, padded with zeros."""
        return pad_rows(self.latent_rows, self.entries, self.codebooks)

    @property
    def vectors(self) -> Float[Tensor, "B Q E"]:
        """Quantized, with the straight-through gradient, padded with zeros."""
        return pad_rows(self.vector_rows, self.entries, self.codebooks)


def joined(parts: Sequence[VQPrediction]) -> VQPrediction:
    """The prediction of a batch from those of its parts, in eval mode the same but for rounding."""
    of_items = {"target": 0, "reconstruction": 0, "codes": 0}
    of_items |= {"latent_rows": 1, "vector_rows": 1, "partial": 1, "partial_target": 1}
    whole: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts], dim)
        for name, dim in of_items.items()
    }
    return replace(parts[0], **whole)


Term = Callable[[VQPrediction], Float[Tensor, ""]]


def predict(model: VQVAE, batch: Float[Tensor, "B D"]) -> VQPrediction:
    """One forward over standardized features.

    In training mode the bank remembers the latents for `model.after_update()`.
    """
    latents = model.latent_rows(batch)
    codes = model.bank.assign(latents)
    vectors = straight_through(latents, model.bank.rows(codes))
    return VQPrediction(
        target=batch,
        reconstruction=model.reconstruct(vectors.T),
        latent_rows=latents,
        vector_rows=vectors,
        codes=codes,
        codebooks=model.bank.codebooks,
        entries=model.bank.entries,
        partial=model.reconstruct_partially(vectors),
        partial_target=model.partial_target(batch),
        partial_widths=model.partial_widths,
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
    return F.mse_loss(prediction.latent_rows, prediction.vector_rows.detach())


def orthogonality(prediction: VQPrediction) -> Float[Tensor, ""]:
    """Mean squared cosine between different codes of one codebook, over the codes in use here.

        mean_q  1 / (n (n - 1))  sum_{i != j} cos(e_i, e_j)^2

    Shin et al., Translation-equivariant Image Quantizer (2021), arXiv:2112.00384, equation 2, as
    squared cosines. A codebook is moved by its latents alone, so the gradient goes there: e_i has
    the code's value, and the gradient of the mean of the latents that chose it, which is
    where the moving average takes it. (In the prototype this term was a constant.) A codebook
    with fewer than two codes in use counts as 0.
    """
    chosen = prediction.codes.T
    counts = torch.zeros_like(prediction.codebooks[..., 0])
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=counts.dtype))
    codes: Tensor = _MovedByLatents.apply(  # type: ignore[no-untyped-call]
        prediction.latent_rows,
        prediction.codebooks,
        prediction.codes,
        counts,
        prediction.entries,
    )
    return codebook_cosines(codes, counts > 0).mean()


class _MovedByLatents(torch.autograd.Function):
    """The codebooks' value, and the gradient of the means of the latents that chose each code."""

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, codebooks: Tensor, codes: Tensor, counts: Tensor, entries: Tensor
    ) -> Tensor:
        del latents
        ctx.save_for_backward(codes, counts, entries)
        return codebooks.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, counts, entries = ctx.saved_tensors
        shared = gradient / counts.clamp_min(1)[..., None]
        return pick_rows(shared, codes, entries), None, None, None, None


def codebook_cosines(
    codes: Float[Tensor, "Q K E"], used: Bool[Tensor, "Q K"]
) -> Float[Tensor, " Q"]:
    """Mean squared cosine of the pairs of different `used` codes; 0 where there is no pair."""
    # 1e-6 against codes of norm about sqrt(E): only a code at the origin notices it.
    directions = codes * (codes.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
    cosines = torch.bmm(directions, directions.transpose(1, 2))
    off_diagonal = 1 - torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)
    pairs = (used[:, :, None] & used[:, None]).to(codes.dtype) * off_diagonal
    return (cosines.square() * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def informativeness(prediction: VQPrediction) -> Float[Tensor, ""]:
    """Mean squared error of each codebook's partial decoder on its own category's features.

        mean_q  1 / (B n_q)  sum |x_q - D_q(z_q)|^2

    Every single token is asked to say something of its category of n_q features. The term is the
    prototype's, which asked each token for all the features, most of which a category knows
    nothing of.
    """
    errors = (prediction.partial - prediction.partial_target).square().mean(1)
    return (errors / prediction.partial_widths).sum() / prediction.codes.shape[1]


def topography(prediction: VQPrediction) -> Float[Tensor, ""]:
    """0.3 (1 - r(d_x, d_z)) + 0.7 (1 - r(d_z, d_q)): near items should have near tokens.

    r is Pearson's correlation over the pairs of different items among the first `topo_samples`,
    d the Euclidean distance of their features, of their latents side by side and of their quantized
    latents (`topography.py` says where it comes from). The weights are the prototype's, which also
    counted each item's zero distance to itself as a pair, and took the mean of the codebooks'
    distances in place of the distance over all codebooks.
    """
    first = slice(prediction.topo_samples)
    preserved, kept = distance_correlations(
        prediction.target[first].T,
        prediction.latent_rows[:, first],
        prediction.vector_rows[:, first],
    )
    return 0.3 * (1 - preserved) + 0.7 * (1 - kept)


def distance_correlation(a: Float[Tensor, "B N"], b: Float[Tensor, "B M"]) -> Float[Tensor, ""]:
    """Pearson's r between the items' pairwise distances in `a` and in `b`."""
    (found,) = distance_correlations(a.T, b.T)
    return found


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
