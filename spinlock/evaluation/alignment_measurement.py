"""How a frozen tokenizer sees a NOA's rollouts, beside how it sees the truth.

Letters: N samples, F frames, C H W field, S states of the window, V latents' entries, Q codebooks,
D standardized features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.evaluation import blocks
from spinlock.evaluation.token_use import Pair, TokenUse, token_use
from spinlock.features import extract
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared errors of standardized features; families in the tokenizer's order."""

    total: Pair
    families: dict[str, Pair]


@dataclass(frozen=True)
class Similarity:
    """Cosines of two sets of latents, sample by sample, and their mean squared difference.

    `blind` and `variance` are the mean cosine and the squared difference of who gives the mean of
    the second set for every sample.
    """

    cosines: tuple[float, ...]
    mse: float
    blind: float
    variance: float

    @property
    def mean(self) -> float:
        return float(torch.tensor(self.cosines).mean())

    @property
    def std(self) -> float:
        return float(torch.tensor(self.cosines).std())


@dataclass(frozen=True)
class Resemblance:
    """Latents of rollouts and of the truth: `own` of one sample, `others` means over all others.

    `identified` is the share of rollouts that are most alike to their own truth.
    """

    own: Similarity
    others: tuple[float, ...]
    identified: float

    @property
    def margin(self) -> float:
        """By how many standard errors own cosines exceed the others."""
        difference = torch.tensor(self.own.cosines) - torch.tensor(self.others)
        error = float(difference.std()) / len(difference) ** 0.5
        mean = float(difference.mean())
        return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


@dataclass(frozen=True)
class Consistency:
    """Norms of projected latents along the window: mean and std by state, over the samples.

    `variation` is their coefficient of variation over the states of one sample, meant over samples.
    For the truth, the U-AFNO is shown the true states.
    """

    norms: tuple[Pair, ...]
    spreads: tuple[Pair, ...]
    norm: Pair
    variation: Pair


@dataclass(frozen=True)
class AlignmentMeasurement:
    """Everything measured; what needs the NOA's projector is None where it has none."""

    reconstruction: Reconstruction
    tokens: TokenUse
    projection: Similarity | None
    resemblance: Resemblance
    consistency: Consistency | None


@torch.no_grad()
def measure_alignment(
    tokenizer: Tokenizer,
    rolled: Float[Tensor, "N F C H W"],
    truth: Float[Tensor, "N F C H W"],
    projected: Float[Tensor, "N S V"] | None = None,
    projected_truth: Float[Tensor, "N S V"] | None = None,
) -> AlignmentMeasurement:
    """Compare finite rollouts with their truth; two samples at least.

    `projected` are the NOA's estimates of the latents from the states of its rollout,
    `projected_truth` those from the true states. Raises ArtifactError for trajectories that the
    tokenizer is not for.
    """
    if len(rolled) < 2:
        raise ValueError("an alignment is measured on two samples at least")
    noa, true = (see(tokenizer, standardized(tokenizer, frames)) for frames in (rolled, truth))
    return AlignmentMeasurement(
        reconstruction=reconstruction(tokenizer, noa.errors, true.errors),
        tokens=token_use(tokenizer, noa.codes, true.codes),
        projection=None if projected is None else similarity(projected.mean(1), noa.latents),
        resemblance=resemblance(noa.latents, true.latents),
        consistency=(
            None
            if projected is None or projected_truth is None
            else consistency(projected, projected_truth)
        ),
    )


@dataclass(frozen=True)
class Seen:
    """What the tokenizer makes of trajectories; `errors` are the squares of what it loses."""

    errors: Float[Tensor, "N D"]
    latents: Float[Tensor, "N V"]
    codes: Int[Tensor, "N Q"]


def standardized(tokenizer: Tokenizer, frames: Float[Tensor, "N F C H W"]) -> Float[Tensor, "N D"]:
    """Trajectories' features; raises ArtifactError for those that the tokenizer is not for."""
    count, channels, height, width = frames.shape[1:]
    tokenizer.expect(frames=count, channels=channels, grid=(height, width))
    features: Tensor = tokenizer.standardizer(extract(frames, tokenizer.feature_config))
    return features


@torch.no_grad()
def see(tokenizer: Tokenizer, features: Float[Tensor, "N D"]) -> Seen:
    """Standardized features through encoder, codes and decoder."""
    model = tokenizer.vqvae
    return Seen(
        errors=(blocks.reconstruct(model, features) - features).square(),
        latents=model.flatten(model.latents(features)),
        codes=blocks.encode(model, features),
    )


def families(names: Sequence[str]) -> dict[str, list[int]]:
    """The columns of each family of features, by the first part of their names, in order."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        found.setdefault(name.partition(".")[0], []).append(column)
    return found


def reconstruction(
    tokenizer: Tokenizer, noa: Float[Tensor, "N D"], truth: Float[Tensor, "N D"]
) -> Reconstruction:
    """The means of both errors, in all and by family."""
    columns = families(tokenizer.standardizer.names)
    return Reconstruction(
        total=_pair(noa, truth),
        families={
            family: _pair(noa[:, places], truth[:, places]) for family, places in columns.items()
        },
    )


def _pair(noa: Tensor, truth: Tensor) -> Pair:
    return Pair(float(noa.mean()), float(truth.mean()))


def similarity(found: Float[Tensor, "N V"], expected: Float[Tensor, "N V"]) -> Similarity:
    """How alike two sets of latents are, sample by sample."""
    middle = expected.mean(0, keepdim=True)
    return Similarity(
        cosines=tuple(F.cosine_similarity(found, expected, dim=1).tolist()),
        mse=float(F.mse_loss(found, expected)),
        blind=float(F.cosine_similarity(middle, expected, dim=1).mean()),
        variance=float(expected.var(0, correction=0).mean()),
    )


def resemblance(noa: Float[Tensor, "N V"], truth: Float[Tensor, "N V"]) -> Resemblance:
    """Each rollout's latents against its own truth's, and against those of all others."""
    cosines = F.normalize(noa, dim=1) @ F.normalize(truth, dim=1).T
    count = len(noa)
    others = (cosines.sum(1) - cosines.diagonal()) / (count - 1)
    return Resemblance(
        own=similarity(noa, truth),
        others=tuple(others.tolist()),
        identified=float((cosines.argmax(1) == torch.arange(count)).float().mean()),
    )


def consistency(noa: Float[Tensor, "N S V"], truth: Float[Tensor, "N S V"]) -> Consistency:
    """Norms along the window; a window of one state has no variation."""
    norms = [latents.norm(dim=2) for latents in (noa, truth)]
    variation = [(each.std(1, correction=0) / each.mean(1)).mean() for each in norms]
    return Consistency(
        norms=_pairs(*(each.mean(0) for each in norms)),
        spreads=_pairs(*(each.std(0) for each in norms)),
        norm=Pair(*(float(each.mean()) for each in norms)),
        variation=Pair(*(float(each) for each in variation)),
    )


def _pairs(noa: Float[Tensor, " S"], truth: Float[Tensor, " S"]) -> tuple[Pair, ...]:
    return tuple(Pair(*values) for values in zip(noa.tolist(), truth.tolist(), strict=True))
