"""Which of several measured points are best, by one objective or by several at once.

A point is as good as another if no objective finds it worse; it dominates the other if besides
one finds it better. With one objective this is the usual order.
"""

import math
from collections.abc import Mapping, Sequence

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
    left, layers = dict(points), list[list[int]]()
    while left:
        front = [
            key
            for key, point in left.items()
            if not any(
                as_good(other, point, objectives) and not as_good(point, other, objectives)
                for other in left.values()
            )
        ]
        layers.append(front)
        left = {key: point for key, point in left.items() if key not in front}
    return layers
