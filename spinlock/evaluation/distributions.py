"""The distribution of each feature over the operators: a NOA's rollouts against the truth.

Features are standardized as their tokenizer sees them, so a distance is in units of a feature's
standard deviation in the data that the tokenizer was fitted to. N samples, D features.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import false_discovery_control, ks_2samp, wasserstein_distance

from spinlock.evaluation.alignment_measurement import families

FALSE_DISCOVERIES = 0.05
"""The share of wrong ones that is allowed among the features that are said to differ."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class FeatureComparison:
    """One feature in rollouts and in the truth.

    `ks` is the largest difference of the two cumulative distributions (Kolmogorov-Smirnov), from
    0 to 1, and `p_value` the chance of as large a one if both were samples of one distribution.
    `differs` says so of p-values corrected for the number of features. `wasserstein` is how far
    the one distribution's mass must be moved to become the other. `correlation` is Pearson's,
    over the samples, None where one side is constant. Quantiles are those of QUANTILES.
    """

    name: str
    ks: float
    p_value: float
    differs: bool
    wasserstein: float
    correlation: float | None
    noa: tuple[float, ...]
    truth: tuple[float, ...]


@dataclass(frozen=True)
class FamilySummary:
    """Means over the features of a family; `correlation` over those that have one."""

    features: int
    differing: int
    ks: float
    wasserstein: float
    correlation: float | None
    worst: str
    """The feature whose mass must be moved farthest."""


def compare_features(
    names: Sequence[str], noa: Float[ndarray, "N D"], truth: Float[ndarray, "N D"]
) -> tuple[FeatureComparison, ...]:
    """Each feature in its own two-sample tests.

    The p-values are corrected together, by Benjamini and Hochberg (1995), which holds for features
    that are positively correlated. Rollouts and truth are pairs with the same initial fields, not
    independent samples, so p-values are larger than they should be.
    """
    with warnings.catch_warnings():
        # Of a few samples the exact p-value may be lost to rounding; the asymptotic one is given.
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
        tested = [ks_2samp(noa[:, column], truth[:, column]) for column in range(len(names))]
    differing = false_discovery_control([test.pvalue for test in tested]) < FALSE_DISCOVERIES
    return tuple(
        FeatureComparison(
            name=name,
            ks=float(test.statistic),
            p_value=float(test.pvalue),
            differs=bool(differs),
            wasserstein=float(wasserstein_distance(ours, theirs)),
            correlation=_correlation(ours, theirs),
            noa=tuple(np.quantile(ours, QUANTILES).tolist()),
            truth=tuple(np.quantile(theirs, QUANTILES).tolist()),
        )
        for name, test, differs, ours, theirs in zip(
            names, tested, differing, noa.T, truth.T, strict=True
        )
    )


def by_family(features: Sequence[FeatureComparison]) -> dict[str, FamilySummary]:
    """The families, in the features' order."""
    found = {}
    for family, columns in families([each.name for each in features]).items():
        members = [features[column] for column in columns]
        related = [each.correlation for each in members if each.correlation is not None]
        found[family] = FamilySummary(
            features=len(members),
            differing=sum(each.differs for each in members),
            ks=float(np.mean([each.ks for each in members])),
            wasserstein=float(np.mean([each.wasserstein for each in members])),
            correlation=float(np.mean(related)) if related else None,
            worst=max(members, key=lambda each: each.wasserstein).name,
        )
    return found


def _correlation(ours: Float[ndarray, " N"], theirs: Float[ndarray, " N"]) -> float | None:
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])
