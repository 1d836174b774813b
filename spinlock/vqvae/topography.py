"""How well one representation keeps another's distances: Pearson's r over all pairs of items.

Brighton & Kirby, Understanding linguistic evolution by visualizing the emergence of topographic
mappings (2006). Letters: B items, P the pairs of different items, N the entries of one
representation ("cloud"), given with an item in each column, M = N + 2.

The B x B distances are never whole in memory at once per operation: they are made and summed in
slabs of `ROWS` items against those that come no earlier, half of the square. With a gradient to
come they are kept, 0.56 B^2 numbers for each cloud; without, nothing is.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 128


def distance_correlations(*clouds: Float[Tensor, "_ B"]) -> tuple[Float[Tensor, ""], ...]:
    """r between each two neighbours among `clouds`: (a, b, c) -> r(d_a, d_b), r(d_b, d_c).

    d is the Euclidean distance. Where two items coincide, as quantized ones do, its square is
    rounding noise: it is floored at 1e-6 of the mean square, where the root's gradient is 0
    instead of up to 1e6. With fewer than three items, or distances that are all equal, r is 0.
    """
    found: tuple[Tensor, ...] = _Correlations.apply(*clouds)  # type: ignore[no-untyped-call]
    return found


class _Correlations(torch.autograd.Function):
    """With a = d_a, b = d_b over the pairs, m their means and v their variances,

        r = c (v_a v_b + e)^(-1/2),   c = mean (a - m_a) (b - m_b)
        dr/da = 1/P ((b - m_b) s - (a - m_a) c v_b s^3),   s = (v_a v_b + e)^(-1/2)
        da_ij/dp_i = (p_i - p_j) / a_ij

    where e = 1e-12 (m_a m_b)^2 + 1e-20 is constant: a variance below it is rounding.
    """

    @staticmethod
    def forward(ctx: Any, *clouds: Tensor) -> tuple[Tensor, ...]:
        size = clouds[0].shape[1]
        pairs = max(1, size * (size - 1) // 2)
        augmented = [_augmented(cloud) for cloud in clouds]
        spreads = [float(points[-1].mean()) for points in augmented]
        floors = [2e-6 * spread + 1e-20 for spread in spreads]
        # About the mean distance: what is summed is small, so single precision loses nothing.
        shifts = [(2 * spread) ** 0.5 for spread in spreads]
        keep = any(ctx.needs_input_grad)
        kept, sums = [], []
        for first in range(0, size, ROWS):
            distances = [
                _distances(points, first, floor)
                for points, floor in zip(augmented, floors, strict=True)
            ]
            sums.append(_moments(distances, shifts))
            kept += distances if keep else []
        moments = torch.stack(sums).sum(0) / pairs
        count = len(clouds)
        means, squares, products = moments.split([count, count, count - 1])
        variances = (squares - means.square()).clamp_min(0)
        covariances = products - means[:-1] * means[1:]
        means = means + torch.tensor(shifts, dtype=means.dtype, device=means.device)
        least = 1e-12 * (means[:-1] * means[1:]).square() + 1e-20
        scales = (variances[:-1] * variances[1:] + least).rsqrt()
        if keep:
            ctx.save_for_backward(*augmented, *kept)
            ctx.statistics = [x.tolist() for x in (means, variances, covariances, scales)]
            ctx.floors, ctx.pairs = floors, pairs
        return tuple((covariances * scales).to(clouds[0].dtype).unbind())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad)
        augmented, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        size = augmented[0].shape[1]
        weights = _weights([float(g) / ctx.pairs for g in gradients], *ctx.statistics)
        sums = [
            torch.zeros_like(points[:-1] if needed else points[:0])
            for points, needed in zip(augmented, ctx.needs_input_grad, strict=True)
        ]
        for slab, first in enumerate(range(0, size, ROWS)):
            distances = kept[slab * count : (slab + 1) * count]
            for i, needed in enumerate(ctx.needs_input_grad):
                if not needed:
                    continue
                pull = torch.full_like(distances[i], weights[i][-1])
                for weight, distance in zip(weights[i], distances, strict=False):
                    if weight:
                        pull.add_(distance, alpha=weight)
                # What lies on the floor is divided by infinity: no gradient.
                root = ctx.floors[i] ** 0.5 * (1 + 1e-6)  # itself rounded, to either side
                pull.div_(torch.threshold(distances[i], root, torch.inf))
                pull[:, : len(pull)].triu_(1)
                last, points = first + len(pull), augmented[i][:-1]
                sums[i][:, first:last].addmm_(points[:, first:], pull.T)
                sums[i][:, first:].addmm_(points[:, first:last], pull)
        return tuple(
            total[:-1].neg_().addcmul_(points[:-2], total[-1]) if needed else None
            for points, total, needed in zip(augmented, sums, ctx.needs_input_grad, strict=True)
        )


def _augmented(cloud: Float[Tensor, "N B"]) -> Float[Tensor, "N+2 B"]:
    """Centred points, against cancellation; then a row of ones, then one of squared norms."""
    points = cloud.new_empty(len(cloud) + 2, cloud.shape[1])
    torch.sub(cloud, cloud.mean(1, keepdim=True), out=points[:-2])
    points[-2] = 1
    torch.sum(points[:-2].square(), 0, out=points[-1])
    return points


def _distances(points: Float[Tensor, "M B"], first: int, floor: float) -> Float[Tensor, "R C"]:
    """Distances of the slab's items to those from `first` on, by one product.

    |p - q|^2 = -2 p.q + |p|^2 1 + 1 |q|^2. What is on and below the diagonal means nothing.
    """
    left = points[:, first : first + ROWS] * -2
    left[-2], left[-1] = points[-1, first : first + ROWS], 1
    return (left.T @ points[:, first:]).clamp_min_(floor).sqrt_()


def _moments(
    distances: Sequence[Float[Tensor, "R C"]], shifts: Sequence[float]
) -> Float[Tensor, " S"]:
    """Sums over the slab's pairs, in double: of each distance less its shift, of its square, and
    of its product with the next cloud's.
    """
    centred = []
    for distance, shift in zip(distances, shifts, strict=True):
        less = distance - shift
        less[:, : len(less)].triu_(1)
        centred.append(less)
    return torch.stack(
        [
            *(less.sum() for less in centred),
            *(less.square().sum() for less in centred),
            *((a * b).sum() for a, b in pairwise(centred)),
        ]
    ).double()


def _weights(
    gradients: Sequence[float],
    means: Sequence[float],
    variances: Sequence[float],
    covariances: Sequence[float],
    scales: Sequence[float],
) -> list[list[float]]:
    """For each cloud, what its distances' gradient takes of every cloud's distances, and 1."""
    count = len(means)
    weights = [[0.0] * (count + 1) for _ in range(count)]
    for i, gradient in enumerate(gradients):
        for own, other in ((i, i + 1), (i + 1, i)):
            across = gradient * scales[i]
            along = -across * covariances[i] * variances[other] * scales[i] ** 2
            weights[own][own] += along
            weights[own][other] += across
            weights[own][-1] -= along * means[own] + across * means[other]
    return weights
