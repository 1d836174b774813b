"""Which points to keep of several measured by several objectives: the greedy hypervolume subset.

Measured is from the best value of each objective to a reference, in logarithms where the objective
is a positive loss: losses span decades, and a factor of two is worth the same at each of them. So
units do not matter, nor how far off the worst are. The hypervolume itself is moocore's.
"""

import heapq
from collections.abc import Mapping, Sequence
from functools import lru_cache

import moocore
import numpy as np
from jaxtyping import Float

from spinlock.search.pareto import Scores
from spinlock.search.space import Objective

REFERENCE = 90.0
"""Percentile of each objective from where on points count for nothing: what is good in one and
among the worst of another is no compromise. Of percentiles and of mere ranks in place of logarithms
it kept most of the hypervolume of recorded NOA runs, those of the choosing half."""


def placed(
    points: Sequence[Scores], goals: Sequence[Objective], percentile: float = REFERENCE
) -> Float[np.ndarray, "points goals"]:
    """Each point by each goal: 0 at the best value, 1 at this percentile of all."""
    costs = np.array([[g.cost(v) for v, g in zip(p, goals, strict=True)] for p in points])
    losses = (costs > 0).all(axis=0)
    costs[:, losses] = np.log(costs[:, losses])
    best, reference = costs.min(axis=0), np.percentile(costs, percentile, axis=0)
    spread = np.where(reference > best, reference - best, 1.0)
    return np.asarray((costs - best) / spread)


def volume(placed: Float[np.ndarray, "points goals"], reference: float = 1.0) -> float:
    """The volume that the points dominate up to `reference` in every goal, as a share of it."""
    goals = placed.shape[1]
    return dominated(placed, np.full(goals, reference)) / float(reference**goals)


def dominated(
    points: Float[np.ndarray, "points goals"], reference: Float[np.ndarray, "goals"]
) -> float:
    """The volume that the points dominate up to `reference`; less is better in every goal."""
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def greedy(points: Mapping[int, Scores], goals: Sequence[Objective], first: int) -> list[int]:
    """The `first` keys of `points`, each chosen since it adds most to those before it.

    Once no point adds anything, the next are chosen as if those before were not there; points that
    nothing can be said for stand last, by the sum of their costs. Of equals the first.
    """
    return list(_greedy(tuple(points.items()), tuple(goals), first))


@lru_cache(maxsize=64)
def _greedy(
    points: tuple[tuple[int, Scores], ...], goals: tuple[Objective, ...], first: int
) -> tuple[int, ...]:
    if not points:
        return ()
    costs = placed([point for _, point in points], goals)
    order: list[int] = []
    left = set(range(len(points)))
    while left and len(order) < first:
        chosen = _chosen(costs, sorted(left), first - len(order))
        if not chosen:
            chosen = sorted(left, key=lambda i: (costs[i].sum(), i))
        order += chosen
        left -= set(chosen)
    return tuple(points[i][0] for i in order[:first])


def _chosen(
    costs: Float[np.ndarray, "points goals"], among: Sequence[int], first: int
) -> list[int]:
    """Greedily the `first` that add to the volume of those before them, while any does.

    What a point adds never grows as others are chosen, so only the largest of old sums, seen
    again, can be the largest now (Minoux, 1978).
    """
    chosen: list[int] = []
    reached = 0.0
    heap = [(-volume(costs[[i]]), i) for i in among]
    heapq.heapify(heap)
    while heap and len(chosen) < first:
        _, i = heapq.heappop(heap)
        adds = volume(costs[[*chosen, i]]) - reached
        if adds <= _NOTHING:
            continue
        if heap and -adds > heap[0][0]:
            heapq.heappush(heap, (-adds, i))
            continue
        chosen.append(i)
        reached += adds
    return chosen


_NOTHING = 1e-12
