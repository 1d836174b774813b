"""Which of several measured points are best, by one objective or by several at once.

A point is as good as another if no objective finds it worse; it dominates the other if besides
one finds it better. With one objective this is the usual order.
"""

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from spinlock.search.space import Objective

Scores = tuple[float, ...]


def scores(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> Scores | None:
    """The objectives' values in `metrics`; None unless each is finite and every limit is kept."""
    if any(limit.excess(metrics) > 0 for goal in objectives for limit in goal.subject_to):
        return None
    found = tuple(metrics.get(objective.metric, math.nan) for objective in objectives)
    return found if all(map(math.isfinite, found)) else None


def as_good(a: Scores, b: Scores, objectives: Sequence[Objective]) -> bool:
    """Whether no objective finds `a` worse than `b`."""
    return not any(
        objective.better(theirs, mine)
        for mine, theirs, objective in zip(a, b, objectives, strict=True)
    )


def best_epoch(
    history: Mapping[int, Mapping[str, float]], objectives: Sequence[Objective]
) -> tuple[int, Scores] | None:
    """The epoch that a run stands for, and its scores: the latest that none before is as good as.

    With one objective that is its best, the first of equals. With several no other epoch of the
    run dominates it, and it changes only when a new epoch is better in something than each one
    before: what is best so far is known at every moment, and one checkpoint keeps it.
    """
    best: tuple[int, Scores] | None = None
    seen: list[Scores] = []
    for epoch, metrics in history.items():
        found = scores(metrics, objectives)
        if found is None:
            continue
        if not any(as_good(before, found, objectives) for before in seen):
            seen = [s for s in seen if not as_good(found, s, objectives)]
            seen.append(found)
            best = epoch, found
    return best


def fronts(points: Mapping[int, Scores], objectives: Sequence[Objective]) -> list[list[int]]:
    """Keys of `points` in layers: the Pareto front, the front of what is left, and so on.

    Within a layer the order is that of `points`; of equal points each is on the same layer.
    """
    if not points:
        return []
    costs = np.array(
        [[g.cost(v) for v, g in zip(p, objectives, strict=True)] for p in points.values()]
    )
    ranks = (
        np.unique(costs[:, 0], return_inverse=True)[1]
        if len(objectives) == 1
        else moocore.pareto_rank(costs)
    )
    layers: list[list[int]] = [[] for _ in range(int(ranks.max()) + 1)]
    for key, rank in zip(points, ranks, strict=True):
        layers[int(rank)].append(key)
    return layers
