"""Compression ratios that fit each category: the more its features repeat each other, the fewer.

The research prototype's tables, on its scores of a category:
  dimensionality  log10(n + 1) / log10(101): how many features it has;
  information     the mean of two: the share of variance in its first five principal components,
                  and the mean |correlation| of its features.
Its third score, the median variance of the features, is left out: it is 1 of every category once
features are standardized. "balanced" averages both triples, weighted by the dimensionality and by
1 minus the share of variance, as there.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from spinlock.vqvae.config import VQVAEConfig

COMPONENTS = 5
# (score above which it holds, ratios of the levels, coarsest first)
_DIMENSIONALITY = ((0.8, (0.3, 0.8, 1.5)), (0.5, (0.4, 1.0, 1.8)), (-math.inf, (0.5, 1.2, 2.0)))
_INFORMATION = ((0.7, (0.3, 0.7, 1.2)), (0.4, (0.5, 1.0, 1.5)), (-math.inf, (0.6, 1.5, 2.5)))


def category_ratios(
    config: VQVAEConfig,
    groups: Sequence[Sequence[int]],
    standardized: Float[np.ndarray, "N D"],
) -> list[tuple[float, ...]]:
    """For each category, latent entries per feature at each level, coarsest first.

    The same for all where `config.compression_ratios` are numbers.
    """
    strategy = config.ratio_strategy
    if strategy is None:
        return [config.ratios] * len(groups)
    return [_adaptive(strategy, standardized[:, list(group)]) for group in groups]


def _adaptive(strategy: str, features: Float[np.ndarray, "N n"]) -> tuple[float, ...]:
    count = features.shape[1]
    dimensionality = math.log10(count + 1) / math.log10(101)
    share, likeness = _redundancy(np.asarray(features, dtype=np.float64))
    by_dimensionality = _look_up(_DIMENSIONALITY, dimensionality)
    by_information = _look_up(_INFORMATION, (share + likeness) / 2)
    match strategy:
        case "dimensionality":
            return by_dimensionality
        case "information":
            return by_information
    weights = (dimensionality, 1 - share)
    return tuple(
        float(np.average(pair, weights=weights))
        for pair in zip(by_dimensionality, by_information, strict=True)
    )


def _redundancy(features: NDArray[np.float64]) -> tuple[float, float]:
    """The share of variance in the first principal components, and the mean |r| of all pairs."""
    if features.shape[1] == 1:
        return 1.0, 1.0
    scaled = (features - features.mean(0)) / features.std(0)
    correlation = scaled.T @ scaled / len(scaled)
    spectrum = np.linalg.eigvalsh(correlation)[::-1]
    pairs = np.abs(correlation[np.triu_indices(len(correlation), 1)])
    return min(1.0, float(spectrum[:COMPONENTS].sum() / spectrum.sum())), float(pairs.mean())


def _look_up(table: Sequence[tuple[float, tuple[float, ...]]], score: float) -> tuple[float, ...]:
    return next(ratios for above, ratios in table if score > above)
