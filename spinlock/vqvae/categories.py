"""Categories: features that say the same thing, found by clustering their correlations.

Features whose correlation r is strong in either sign belong together. The distance
sqrt(2 (1 - r^2)) is Euclidean, because the matrix of r^2 is positive semi-definite (a Schur
product of correlation matrices), so Ward's linkage means on it what it should; on 1 - |r| it
does not. The number of categories is the one with the best silhouette (Rousseeuw 1987).

The features are put into an order that depends on their values alone before anything is
computed, so permuted features give the same partition, bit for bit, ties included.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from spinlock.config import Config
from spinlock.errors import ConfigError
from spinlock.vqvae.config import VQVAEConfig

Array = NDArray[np.float64]


class Categories(Config):
    """A partition of the features, and how good it is.

    `groups` hold indices into the features, every one exactly once, the largest group first.
    `orthogonality` is the mean |r| between the centroids of different categories, 0 for a
    single category. `names` are the user's, empty for categories that were found. `reassigned`
    are the features that first stood in a cluster too small to be a category. A silhouette is
    None when there is only one category.
    """

    groups: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    silhouette: float | None
    orthogonality: float
    orthogonality_target: float
    reassigned: tuple[int, ...] = ()

    @property
    def orthogonality_met(self) -> bool:
        return self.orthogonality <= self.orthogonality_target

    def summary(self) -> str:
        """One sentence for a log: sizes, silhouette, and whether the target was met."""
        sizes = ", ".join(str(len(group)) for group in self.groups)
        silhouette = "" if self.silhouette is None else f", silhouette {self.silhouette:.3f}"
        verdict = "met" if self.orthogonality_met else "NOT met"
        return (
            f"{len(self.groups)} categories of {sizes} features{silhouette}; orthogonality "
            f"{self.orthogonality:.3f}, target {self.orthogonality_target:g} {verdict}."
        )


def discover(
    features: Float[np.ndarray, "N D"], names: Sequence[str], config: VQVAEConfig
) -> Categories:
    """The partition with the best silhouette among those that meet the orthogonality target.

    Where none meets it, the best of all is given, with `orthogonality_met` false.
    `num_categories_auto` fixes the number of clusters cut from the tree; clusters smaller than
    `min_features_per_category` are dissolved into their nearest category, unless all are small.
    Raises ValueError for a constant or non-finite feature, which a Standardizer would have
    dropped, and for fewer than three samples.
    """
    values = np.asarray(features, dtype=np.float64)
    _check(values, names)
    if config.category_assignment != "auto":
        return _assigned(config.category_assignment, values, names, config.orthogonality_target)
    count = values.shape[1]
    # lexsort's last key is the first to decide: equal columns alone keep an arbitrary order.
    order = np.lexsort(values[::-1])
    values = values[:, order]
    scaled = (values - values.mean(0)) / values.std(0)
    correlation = np.clip(scaled.T @ scaled / len(scaled), -1.0, 1.0)

    cuts = [
        labels
        for labels in _cuts(correlation, config)
        if config.num_categories_auto is not None
        or np.bincount(labels).max() >= config.min_features_per_category
    ] or [np.zeros(count, dtype=np.int64)]  # fewer features than two categories need
    candidates = [_candidate(labels, scaled, correlation, config) for labels in cuts]
    # A single category would meet any target, having nobody to be like.
    several = [found for found in candidates if len(found.groups) > 1] or candidates
    meeting = [found for found in several if found.orthogonality_met] or several
    best = max(meeting, key=lambda found: -1.0 if found.silhouette is None else found.silhouette)
    return best.model_copy(
        update={
            "groups": tuple(tuple(int(order[i]) for i in group) for group in best.groups),
            "reassigned": tuple(int(order[i]) for i in best.reassigned),
        }
    )


def _assigned(
    wanted: Mapping[str, Sequence[str]], values: Array, names: Sequence[str], target: float
) -> Categories:
    """The user's own partition, measured. Features that cleaning dropped stay out of it."""
    places = {name: index for index, name in enumerate(names)}
    listed = [name for members in wanted.values() for name in members]
    left_out = [name for name in names if name not in set(listed)]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if left_out or twice:
        raise ConfigError(
            "category_assignment: every feature belongs to one category"
            + (f"; in none: {', '.join(left_out)}" if left_out else "")
            + (f"; in several: {', '.join(twice)}" if twice else "")
            + "."
        )
    groups = {
        category: tuple(places[name] for name in members if name in places)
        for category, members in wanted.items()
    }
    empty = [category for category, members in groups.items() if not members]
    if empty:
        raise ConfigError(
            f"category_assignment: {', '.join(empty)}: no feature of it is in use. In use are "
            f"{', '.join(names)}."
        )
    scaled = (values - values.mean(0)) / values.std(0)
    correlation = np.clip(scaled.T @ scaled / len(scaled), -1.0, 1.0)
    labels = np.empty(len(names), dtype=np.int64)
    for label, members in enumerate(groups.values()):
        labels[list(members)] = label
    scored = 2 <= len(groups) < len(names)
    return Categories(
        groups=tuple(groups.values()),
        names=tuple(groups),
        silhouette=_silhouette(correlation, labels) if scored else None,
        orthogonality=float(np.mean(likeness(scaled, [*groups.values()]))),
        orthogonality_target=target,
    )


def _check(values: Array, names: Sequence[str]) -> None:
    if values.shape[1] != len(names) or not names:
        raise ValueError(f"{values.shape[1]} features, but {len(names)} names.")
    if len(values) < 3:
        raise ValueError(f"Correlations need at least 3 samples, found {len(values)}.")
    with np.errstate(invalid="ignore"):
        spread = values.std(0)
    bad = [name for name, width in zip(names, spread, strict=True) if not width > 0]
    if bad:
        raise ValueError(f"Constant or non-finite features cannot be clustered: {bad}.")


def _cuts(correlation: Array, config: VQVAEConfig) -> list[NDArray[np.int64]]:
    """Labels 0.. of every distinct cut of the tree that is to be considered."""
    count = len(correlation)
    wanted = config.num_categories_auto
    if count < 2 or wanted == 1:
        return [np.zeros(count, dtype=np.int64)]
    # Here and below, as every trial's process imports this module: two libraries, 0.5 s.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = _distance(correlation)
    tree = linkage(squareform(distance, checks=False), method="ward")
    sizes = [wanted] if wanted is not None else range(2, min(config.max_clusters, count - 1) + 1)
    return [
        np.unique(fcluster(tree, min(size, count), criterion="maxclust"), return_inverse=True)[1]
        for size in sizes
    ]


def _distance(correlation: Array) -> Array:
    distance = np.sqrt(2.0 * np.maximum(0.0, 1.0 - correlation**2))
    np.fill_diagonal(distance, 0.0)
    return (distance + distance.T) / 2.0


def _candidate(
    labels: Int[np.ndarray, " D"], scaled: Array, correlation: Array, config: VQVAEConfig
) -> Categories:
    labels, reassigned = _adopt_orphans(labels, scaled, config.min_features_per_category)
    groups = [tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]
    groups.sort(key=lambda group: (-len(group), group[0]))
    scored = 2 <= len(groups) < len(labels)
    silhouette = _silhouette(correlation, labels) if scored else None
    return Categories(
        groups=tuple(groups),
        silhouette=silhouette,
        orthogonality=float(np.mean(likeness(scaled, groups))),
        orthogonality_target=config.orthogonality_target,
        reassigned=tuple(int(i) for i in reassigned),
    )


def _silhouette(correlation: Array, labels: Int[np.ndarray, " D"]) -> float:
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(_distance(correlation), labels, metric="precomputed"))


def _adopt_orphans(
    labels: Int[np.ndarray, " D"], scaled: Array, least: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clusters smaller than `least` join, whole, the one whose centroid theirs is likest to."""
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes >= least)
    orphans = np.flatnonzero(sizes[labels] < least)
    if not len(orphans) or not len(kept):
        return labels, np.empty(0, dtype=np.int64)
    centroids = np.stack([_centroid(scaled[:, labels == label]) for label in kept], axis=1)
    adopted = labels.copy()
    for small in np.flatnonzero((sizes > 0) & (sizes < least)):
        members = labels == small
        # Feature by feature, two that say the same could end in different categories.
        adopted[members] = kept[np.abs(_centroid(scaled[:, members]) @ centroids).argmax()]
    return adopted, orphans


def _centroid(members: Array) -> Array:
    """The category's mean feature [N], of unit variance.

    Each member enters with the sign of its correlation with the first one: r and -r are
    equally near, and would cancel in a plain mean.
    """
    signs = np.where(members.T @ members[:, 0] < 0, -1.0, 1.0)
    mean = members @ signs
    centred: Array = (mean - mean.mean()) / max(float(mean.std()), 1e-12)
    return centred


def likeness(values: Float[np.ndarray, "N D"], groups: Sequence[Sequence[int]]) -> list[float]:
    """For each category the mean |r| between its centroid and the others', on these samples.

    `values` are standardized. The mean of what is given is the partition's `orthogonality` when the
    samples are those it was found on. Of N samples chance alone gives about sqrt(2 / (pi N)).
    """
    if len(groups) < 2:
        return [0.0] * len(groups)
    scaled = np.asarray(values, dtype=np.float64)
    stacked = np.stack([_centroid(scaled[:, list(group)]) for group in groups])
    correlation = np.abs(stacked @ stacked.T / stacked.shape[1]).clip(max=1.0)
    np.fill_diagonal(correlation, 0.0)
    found: list[float] = (correlation.sum(1) / (len(groups) - 1)).tolist()
    return found
