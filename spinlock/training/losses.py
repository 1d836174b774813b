"""The NOA's loss terms, each a function of one `Prediction`.

L = lambda_traj L_traj + lambda_commit L_commit + lambda_latent L_latent
(seeds/noa-training-guide.md). Each term is a mean over the batch's samples of a number that
depends on one sample alone, so micro-batches and ranks add up to the whole batch.

Letters: B batch, w window, C H W field, L latent entries of the tokenizer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """A rollout seen by the frozen tokenizer: latents z, their quantization, the projection.

    `latents` carry gradient to the rollout when L_commit has weight. `projected` is the
    projector's estimate from the U-AFNO's own bottlenecks, averaged over the sampled states.
    """

    latents: Float[Tensor, "B L"]
    quantized: Float[Tensor, "B L"]
    projected: Float[Tensor, "B L"]


@dataclass(frozen=True)
class Prediction:
    """What the terms compare: predicted and true frames of the window, and the alignment."""

    frames: Float[Tensor, "B w C H W"]
    target: Float[Tensor, "B w C H W"]
    alignment: Alignment | None


def trajectory(prediction: Prediction) -> Float[Tensor, ""]:
    """L_traj: mean squared error of the window's frames, in the field's own units."""
    return F.mse_loss(prediction.frames, prediction.target)


def commitment(prediction: Prediction) -> Float[Tensor, ""]:
    """L_commit = mse(z, sg(z_q)): how far the rollout's latents lie from the codebooks."""
    aligned = _aligned(prediction)
    return F.mse_loss(aligned.latents, aligned.quantized.detach())


def latent(prediction: Prediction) -> Float[Tensor, ""]:
    """L_latent = mse(mean_k P(bottleneck_k), sg(z)): the NOA's own features against the latents."""
    aligned = _aligned(prediction)
    return F.mse_loss(aligned.projected, aligned.latents.detach())


TERMS: dict[str, Callable[[Prediction], Tensor]] = {
    "traj": trajectory,
    "commit": commitment,
    "latent": latent,
}


def _aligned(prediction: Prediction) -> Alignment:
    if prediction.alignment is None:
        raise ValueError("this loss term needs a prediction aligned with a tokenizer")
    return prediction.alignment
