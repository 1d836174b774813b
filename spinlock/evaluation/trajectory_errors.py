"""How far rollouts are from their truth, step by step, beside standing still.

Letters: N samples, F = T + 1 frames, T steps, C H W field.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Against:
    """An error of the NOA, and that of who repeats the initial field at every step."""

    noa: float
    persistence: float

    @property
    def ratio(self) -> float:
        """The NOA's over the other's; 0 where neither errs, infinite where only the NOA does."""
        if self.persistence > 0:
            return self.noa / self.persistence
        return float("inf") if self.noa > 0 else 0.0


@dataclass(frozen=True)
class TrajectoryErrors:
    """Over the frames after the first, which is given; the means over samples.

    `mse` is in the field's own units, squared, and L_traj without a window. `relative_l2` is the
    norm of the error over that of the truth, as in Li et al., Fourier Neural Operator
    (arXiv:2010.08895), section 5. `nrmse` is the root mean square of the error over the standard
    deviation of the truth, so 1 is who knows the truth's mean alone. `horizon` is the relative L2
    of each step by itself.
    """

    mse: Against
    relative_l2: Against
    nrmse: Against
    horizon: tuple[Against, ...]


@dataclass(frozen=True)
class Energies:
    """Sums that the errors are made of, per sample and step, in float64."""

    error: Float[Tensor, "N T"]
    standing: Float[Tensor, "N T"]
    truth: Float[Tensor, "N T"]
    variance: Float[Tensor, " N"]
    """Of the truth, over steps and field."""
    entries: int
    """Numbers in one frame."""


def energies(frames: Float[Tensor, "N F C H W"], truth: Float[Tensor, "N F C H W"]) -> Energies:
    """The sums of some samples."""
    found, target, initial = (each.double() for each in (frames[:, 1:], truth[:, 1:], truth[:, :1]))
    return Energies(
        error=(found - target).square().sum((2, 3, 4)),
        standing=(initial - target).square().sum((2, 3, 4)),
        truth=target.square().sum((2, 3, 4)),
        variance=target.flatten(1).var(1, correction=0),
        entries=target[0, 0].numel(),
    )


def trajectory_errors(parts: Sequence[Energies]) -> TrajectoryErrors:
    """The errors of all samples in `parts`, one at least."""
    error, standing, truth = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("error", "standing", "truth")
    )
    variance, entries = torch.cat([part.variance for part in parts]), parts[0].entries
    spread = variance * entries * truth.shape[1]
    return TrajectoryErrors(
        mse=Against(float(error.mean()) / entries, float(standing.mean()) / entries),
        relative_l2=Against(_share(error, truth), _share(standing, truth)),
        nrmse=Against(_root(error.sum(1), spread), _root(standing.sum(1), spread)),
        horizon=tuple(
            Against(_root(error[:, t], truth[:, t]), _root(standing[:, t], truth[:, t]))
            for t in range(truth.shape[1])
        ),
    )


def _share(error: Float[Tensor, "N T"], truth: Float[Tensor, "N T"]) -> float:
    return _root(error.sum(1), truth.sum(1))


def _root(part: Float[Tensor, " N"], whole: Float[Tensor, " N"]) -> float:
    """The mean over samples of sqrt(part / whole); no error of nothing is 0."""
    return float(torch.where(part == 0, part, part / whole).sqrt().mean())
