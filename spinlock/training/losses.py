"""The NOA's loss terms, each a function of one `Prediction`.

L = lambda_traj L_traj + lambda_commit L_commit + lambda_latent L_latent + ..
(seeds/noa-training-guide.md). Each term is a mean over the batch's samples of a number that
depends on one sample alone, so micro-batches and ranks add up to the whole batch.

Letters: B batch, w window, C H W field, D standardized features, V entries of the tokenizer's
latents, Q codebooks, K codes of the largest one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.vqvae import MatchedTokenizer, Tokenized, Tokenizer
from spinlock.vqvae.model import straight_through
from spinlock.vqvae.standin import StandIn


@dataclass(frozen=True)
class Truth:
    """The ground truth of the batch as the tokenizer sees it, and tokens drawn for it.

    `sampled` are drawn from the truth's soft assignments, for L_augment alone.
    """

    latents: Float[Tensor, "B V"]
    sampled: Int[Tensor, "B Q"] | None = None


@dataclass(frozen=True)
class Alignment:
    """A rollout `seen` by the frozen tokenizer.

    Its features and latents carry gradient to the rollout when a term of THROUGH_FEATURES has
    weight. `projected` is the projector's estimate of the latents from the U-AFNO's own
    bottlenecks, averaged over the sampled states; `mapped` the feature projector's from the
    features.
    """

    tokenizer: Tokenizer | MatchedTokenizer
    seen: Tokenized
    projected: Float[Tensor, "B V"]
    mapped: Float[Tensor, "B V"] | None = None
    truth: Truth | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What the terms compare: predicted and true frames of the window, and the alignment.

    `first` is the state after one step from `initial`, with gradient however short the window.
    """

    frames: Float[Tensor, "B w C H W"]
    target: Float[Tensor, "B w C H W"]
    alignment: Alignment | None = None
    initial: Float[Tensor, "B C H W"] | None = None
    first: Float[Tensor, "B C H W"] | None = None


def trajectory(prediction: Prediction) -> Float[Tensor, ""]:
    """L_traj: mean squared error of the window's frames, in the field's own units."""
    return F.mse_loss(prediction.frames, prediction.target)


def initial_condition(prediction: Prediction) -> Float[Tensor, ""]:
    """L_ic = mse(u_1, u_0): the first step leaves from the initial condition, without a jump.

    The second term of the CNO-trained architecture (seeds/noa-training-guide-2026-01-25.md).
    """
    if prediction.first is None or prediction.initial is None:
        raise ValueError("L_ic needs the first predicted state")
    return F.mse_loss(prediction.first, prediction.initial)


def commitment(prediction: Prediction) -> Float[Tensor, ""]:
    """L_commit = mse(z, sg(z_q)): how far the rollout's latents lie from the codebooks."""
    seen = _aligned(prediction).seen
    return F.mse_loss(seen.latents, seen.quantized.detach())


def latent(prediction: Prediction) -> Float[Tensor, ""]:
    """L_latent = mse(mean_k P(bottleneck_k), sg(z)): the NOA's own features against the latents."""
    aligned = _aligned(prediction)
    return F.mse_loss(aligned.projected, aligned.seen.latents.detach())


def reconstruction(prediction: Prediction) -> Float[Tensor, ""]:
    """L_recon = mse(decode(z_q), f): what the tokenizer loses of the rollout's features f.

    First term of the VQ-led mode. z_q is straight-through, as in training the tokenizer. Features
    are standardized on both sides (the prototype compared vectors of two spaces, and failed on
    every batch).
    """
    aligned = _aligned(prediction)
    vectors = straight_through(aligned.seen.latents, aligned.seen.quantized)
    return F.mse_loss(aligned.tokenizer.reconstruct(vectors), aligned.seen.features)


def token_distribution(prediction: Prediction) -> Float[Tensor, ""]:
    """L_tokens = KL(p(truth) || p(rollout)) of soft token assignments, nats, mean over codebooks.

    p as in `Tokenizer.soft_codes` ("token distribution matching" of seeds/noa-vqvae-alignment.md).
    """
    aligned, truth = _aligned(prediction), _truth(prediction)
    codebooks = _codebooks(aligned)
    wanted = codebooks.soft_codes(truth.latents, aligned.temperature)
    found = codebooks.soft_codes(aligned.seen.latents, aligned.temperature)
    return (wanted.exp() * (wanted - found)).sum(-1).mean()


def feature_projection(prediction: Prediction) -> Float[Tensor, ""]:
    """L_project = mse(M(f), sg(z(truth))): a small MLP reads the truth's latents off the rollout.

    The "learned feature projection" of seeds/noa-vqvae-alignment.md: M maps trajectory features to
    the tokenizer's latent space, trained with the NOA.
    """
    aligned = _aligned(prediction)
    if aligned.mapped is None:
        raise ValueError("L_project needs a feature projector")
    return F.mse_loss(aligned.mapped, _truth(prediction).latents.detach())


def augmentation(prediction: Prediction) -> Float[Tensor, ""]:
    """L_augment = mse(f, sg(decode(s))), s a token sequence drawn near the truth's.

    "Data augmentation via VQ space" (seeds/noa-vqvae-alignment.md): every epoch decodes another
    sequence from the truth's soft assignments into features that the rollout should show.
    """
    aligned, truth = _aligned(prediction), _truth(prediction)
    if truth.sampled is None:
        raise ValueError("L_augment needs tokens drawn for the truth")
    decoded = _codebooks(aligned).vqvae.decode_codes(truth.sampled)
    return F.mse_loss(aligned.seen.features, decoded.detach())


TERMS: dict[str, Callable[[Prediction], Tensor]] = {
    "traj": trajectory,
    "ic": initial_condition,
    "commit": commitment,
    "latent": latent,
    "recon": reconstruction,
    "tokens": token_distribution,
    "project": feature_projection,
    "augment": augmentation,
}
STATES = frozenset({"traj", "ic"})
"""Terms that need no tokenizer."""
THROUGH_FEATURES = frozenset({"commit", "recon", "tokens", "project", "augment"})
"""Terms whose gradient reaches the rollout through its features."""
OF_TRUTH = frozenset({"tokens", "project", "augment"})
"""Terms that compare with the ground truth as the tokenizer sees it."""


def comparable(tokenizer: Tokenizer | StandIn | None) -> frozenset[str]:
    """The terms that a run with this tokenizer can have."""
    if isinstance(tokenizer, Tokenizer):
        return frozenset(TERMS)
    if tokenizer is None:
        return STATES
    codes = {"commit"} if tokenizer.quantizes else set()
    codes |= {"recon"} if tokenizer.quantizes and tokenizer.decodes else set()
    return STATES | {"latent", "project"} | codes


def _codebooks(aligned: Alignment) -> Tokenizer:
    if not isinstance(aligned.tokenizer, Tokenizer):
        raise ValueError("this loss term needs codebooks of our own")
    return aligned.tokenizer


def _aligned(prediction: Prediction) -> Alignment:
    if prediction.alignment is None:
        raise ValueError("this loss term needs a prediction aligned with a tokenizer")
    return prediction.alignment


def _truth(prediction: Prediction) -> Truth:
    truth = _aligned(prediction).truth
    if truth is None:
        raise ValueError("this loss term needs the ground truth's latents")
    return truth
