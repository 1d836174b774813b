"""Compression ratios that fit each category: the tables, and that each strategy makes its own."""

import math

import numpy as np
import pytest
import torch

from spinlock.vqvae import VQVAEConfig
from spinlock.vqvae.ratios import category_ratios

STRATEGIES = ("auto", "auto:balanced", "auto:dimensionality", "auto:information")


def ratios(strategy: str, groups: list[range], values: np.ndarray) -> list[tuple[float, ...]]:
    return category_ratios(VQVAEConfig(compression_ratios=strategy), groups, values)


@pytest.fixture
def alike_and_apart() -> np.ndarray:
    """Columns 0-3 repeat each other; 4-43 have nothing in common."""
    noise = torch.randn(4000, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.cat([noise[:, :1].expand(-1, 4), noise[:, 1:]], 1).numpy()
    return (values - values.mean(0)) / values.std(0)


def test_the_strategies_follow_their_tables(alike_and_apart: np.ndarray) -> None:
    groups = [range(4), range(4, 44)]
    # log10(5)/log10(101) = 0.35 and log10(41)/log10(101) = 0.80464
    assert ratios("auto:dimensionality", groups, alike_and_apart) == [
        (0.5, 1.2, 2.0),
        (0.3, 0.8, 1.5),
    ]
    # repeated columns: all variance in one component, |r| = 1; independent ones: about 5/40 and 0
    assert ratios("auto:information", groups, alike_and_apart) == [
        (0.3, 0.7, 1.2),
        (0.6, 1.5, 2.5),
    ]
    balanced = ratios("auto:balanced", groups, alike_and_apart)
    # all the variance is in five components, so the information's triple weighs nothing
    assert balanced[0] == pytest.approx((0.5, 1.2, 2.0))
    own, share = math.log10(41) / math.log10(101), _share(alike_and_apart[:, 4:])
    expected = [
        (own * a + (1 - share) * b) / (own + 1 - share)
        for a, b in zip((0.3, 0.8, 1.5), (0.6, 1.5, 2.5), strict=True)
    ]
    assert balanced[1] == pytest.approx(expected)


def test_auto_is_balanced_and_the_other_strategies_differ(alike_and_apart: np.ndarray) -> None:
    groups = [range(4), range(4, 44)]
    found = {name: ratios(name, groups, alike_and_apart) for name in STRATEGIES}
    assert found["auto"] == found["auto:balanced"]
    kinds = {tuple(found[name]) for name in STRATEGIES} | {
        tuple(ratios("0.5:1:1.5", groups, alike_and_apart))
    }
    assert len(kinds) == 4


def _share(values: np.ndarray) -> float:
    """Variance in the first five principal components, by another way: singular values."""
    spectrum = np.linalg.svd(values, compute_uv=False) ** 2
    return float(spectrum[:5].sum() / spectrum.sum())
