"""A NOA's rollouts held against the ground truth, through a tokenizer trained on ground truth.

Letters: N samples, D standardized features.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from spinlock.evaluation.alignment_measurement import (
    Reconstruction,
    reconstruction,
    see,
    standardized,
)
from spinlock.evaluation.alignment_rollouts import Rolled
from spinlock.evaluation.distributions import (
    FamilySummary,
    FeatureComparison,
    by_family,
    compare_features,
)
from spinlock.evaluation.token_use import Pair, TokenUse, token_use
from spinlock.evaluation.trajectory_errors import TrajectoryErrors, energies, trajectory_errors
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class ValidationMeasurement:
    """Everything measured of the finite rollouts and their truth.

    `reconstruction` and `absolute` are mean squared and mean absolute errors of standardized
    features; `strings` counts the different strings of tokens.
    """

    trajectories: TrajectoryErrors
    reconstruction: Reconstruction
    absolute: Pair
    features: tuple[FeatureComparison, ...]
    tokens: TokenUse
    strings: Pair

    @property
    def ratio(self) -> float:
        """The squared error on rollouts over that on the truth; 1 where there is none on either."""
        total = self.reconstruction.total
        if total.truth > 0:
            return total.noa / total.truth
        return float("inf") if total.noa > 0 else 1.0

    @property
    def families(self) -> dict[str, FamilySummary]:
        return by_family(self.features)


@torch.no_grad()
def measure_validation(
    tokenizer: Tokenizer, parts: Iterable[Rolled]
) -> tuple[ValidationMeasurement | None, int]:
    """Compare rollouts with their truth, and count those that are not finite.

    Those are left out; None where fewer than two are finite. `parts` are read once, one at a time.
    Raises ArtifactError for trajectories that the tokenizer is not for.
    """
    errors, rows, diverged = [], [], 0
    for part in parts:
        finite = part.frames.isfinite().flatten(1).all(1)
        diverged += int((~finite).sum())
        if finite.any():
            frames, truth = part.frames[finite], part.truth[finite]
            errors.append(energies(frames, truth))
            rows.append([standardized(tokenizer, each) for each in (frames, truth)])
    if sum(len(found) for found, _ in rows) < 2:
        return None, diverged
    noa, truth = (torch.cat([row[side] for row in rows]) for side in (0, 1))
    seen, expected = see(tokenizer, noa), see(tokenizer, truth)
    return ValidationMeasurement(
        trajectories=trajectory_errors(errors),
        reconstruction=reconstruction(tokenizer, seen.errors, expected.errors),
        absolute=Pair(float(seen.errors.sqrt().mean()), float(expected.errors.sqrt().mean())),
        features=compare_features(
            tokenizer.standardizer.names, noa.double().numpy(), truth.double().numpy()
        ),
        tokens=token_use(tokenizer, seen.codes, expected.codes),
        strings=Pair(*(float(len(each.codes.unique(dim=0))) for each in (seen, expected))),
    ), diverged
