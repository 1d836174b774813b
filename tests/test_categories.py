"""Categories: every feature has one, the same whatever the order, and promises are reported."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinlock.vqvae import VQVAEConfig, discover
from spinlock.vqvae.categories import Categories, _distance, likeness


def planted(seed: int, sizes: tuple[int, ...], samples: int = 200, noise: float = 0.2):
    """Features that repeat one independent signal per group, with random sign and noise."""
    rng = np.random.default_rng(seed)
    columns = []
    for size in sizes:
        signal = rng.normal(size=(samples, 1)) * rng.choice([-1, 1], size)
        columns.append(signal + noise * rng.normal(size=(samples, size)))
    return np.concatenate(columns, axis=1)


def names(features):
    return [f"f{i}" for i in range(features.shape[1])]


def as_sets(categories: Categories):
    return {frozenset(group) for group in categories.groups}


def test_planted_groups_are_found_whatever_the_features_signs():
    features = planted(0, (7, 5, 4, 3))
    found = discover(features, names(features), VQVAEConfig())
    assert as_sets(found) == {
        frozenset(range(7)),
        frozenset(range(7, 12)),
        frozenset(range(12, 16)),
        frozenset(range(16, 19)),
    }
    assert found.orthogonality_met
    assert found.silhouette > 0.5


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(3, 40),
    count=st.integers(1, 25),
    rounded=st.booleans(),
)
def test_every_feature_has_one_category_and_permuted_features_the_same_one(
    seed, samples, count, rounded
):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(samples, count)) + rng.normal(size=(samples, 1))
    if rounded:  # ties between distances are where an order could show
        features = np.round(features) + np.arange(samples)[:, None] % 2
        features = features[:, features.std(0) > 0]
        if not features.shape[1]:
            return
    config = VQVAEConfig(max_clusters=10)
    found = discover(features, names(features), config)
    assert sorted(i for group in found.groups for i in group) == list(range(features.shape[1]))
    order = rng.permutation(features.shape[1])
    permuted = discover(features[:, order], names(features), config)

    # Equal columns are interchangeable: they are compared by their values.
    def contents(values, categories):
        return [[values[:, i].tolist() for i in group] for group in categories.groups]

    assert contents(features[:, order], permuted) == contents(features, found)
    assert permuted.silhouette == found.silhouette
    assert permuted.orthogonality == found.orthogonality


def test_the_distance_is_euclidean():
    # Classical scaling: -1/2 J d^2 J has no negative eigenvalue exactly for Euclidean distances.
    correlation = np.corrcoef(np.random.default_rng(0).normal(size=(8, 20)), rowvar=False)
    squared = _distance(correlation) ** 2
    centring = np.eye(20) - 1 / 20
    assert np.linalg.eigvalsh(-0.5 * centring @ squared @ centring).min() > -1e-12


def test_orphans_join_the_category_they_correlate_with():
    features = planted(1, (6, 5))
    rng = np.random.default_rng(2)
    orphan = features[:, :1] + 1.5 * rng.normal(size=(len(features), 1))
    features = np.concatenate([features, orphan], axis=1)
    config = VQVAEConfig(num_categories_auto=3)
    found = discover(features, names(features), config)
    assert found.reassigned == (11,)
    assert as_sets(found) == {frozenset([*range(6), 11]), frozenset(range(6, 11))}


def test_an_orthogonality_target_out_of_reach_is_reported():
    rng = np.random.default_rng(3)
    common = rng.normal(size=(100, 1))
    groups = [common + rng.normal(size=(100, 1)) for _ in range(3)]
    features = np.concatenate([group + 0.3 * rng.normal(size=(100, 4)) for group in groups], axis=1)
    found = discover(features, names(features), VQVAEConfig(orthogonality_target=0.01))
    assert len(found.groups) > 1
    assert not found.orthogonality_met
    assert "target 0.01 NOT met" in found.summary()


def test_the_target_is_preferred_to_the_silhouette():
    # Two pairs of groups, close within a pair: four categories have the better silhouette,
    # two are less correlated.
    rng = np.random.default_rng(4)
    columns = []
    for _ in range(2):
        shared = rng.normal(size=(400, 1))
        for _ in range(2):
            signal = shared + 0.8 * rng.normal(size=(400, 1))
            columns.append(signal + 0.05 * rng.normal(size=(400, 4)))
    features = np.concatenate(columns, axis=1)
    loose = discover(features, names(features), VQVAEConfig(orthogonality_target=1))
    strict = discover(features, names(features), VQVAEConfig(orthogonality_target=0.15))
    assert len(loose.groups) == 4
    assert len(strict.groups) == 2
    assert strict.orthogonality_met


def test_a_constant_feature_is_refused_by_name():
    features = planted(5, (4,))
    features[:, 2] = 3.0
    with pytest.raises(ValueError, match=r"cannot be clustered: \['f2'\]"):
        discover(features, names(features), VQVAEConfig())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_features_are_one_category(count):
    features = planted(6, (1,) * count)
    found = discover(features, names(features), VQVAEConfig())
    assert len(found.groups) == 1
    assert found.orthogonality == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_two_features_that_say_the_same_stay_together_when_their_cluster_is_dissolved(seed):
    features = planted(seed, (6, 6, 2), noise=0.5)
    found = discover(features, names(features), VQVAEConfig(num_categories_auto=3))
    assert {*found.reassigned} == {12, 13}
    assert any({12, 13} <= {*group} for group in found.groups)


def test_the_partitions_orthogonality_is_the_mean_likeness_of_its_categories():
    features = planted(5, (4, 3, 5))
    features = (features - features.mean(0)) / features.std(0)
    found = discover(features, names(features), VQVAEConfig())
    each = likeness(features, found.groups)
    assert len(each) == len(found.groups) > 1
    assert np.mean(each) == pytest.approx(found.orthogonality, abs=1e-12)


def test_a_category_that_is_another_ones_negative_is_as_like_it_as_can_be():
    generator = np.random.default_rng(6)
    first, alone = generator.normal(size=(2, 5000))
    each = likeness(np.stack([first, -3 * first, alone], axis=1), [(0,), (1,), (2,)])
    assert each == pytest.approx([0.5, 0.5, 0.0], abs=0.02)
    assert likeness(first[:, None], [(0,)]) == [0.0]
