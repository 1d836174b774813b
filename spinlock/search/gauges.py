"""A search as numbers for Prometheus, by Ray's own export: `clusters/dashboards/` draws them.

    ray_spinlock_epoch{study, trial}             the last epoch that the trial has reported
    ray_spinlock_metric{study, trial, metric}    what it reported: val/traj, val/commit, ...
    ray_spinlock_ended_total{study, state, rule} trials that have ended, by what ended them

The driver alone tells them, from the book: they are what the search decides by.
"""

import math
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from spinlock.search.events import Ended, Event, Reported
from spinlock.search.ledger import Ledger


class Gauges:
    """Listens to the book of a search on the connected Ray."""

    def __init__(self, study: str, metrics: Sequence[str]) -> None:
        self._study, self._metrics = study, metrics
        self._epoch = Gauge("spinlock_epoch", "Last epoch reported", tag_keys=("study", "trial"))
        self._metric = Gauge(
            "spinlock_metric", "Last value reported", tag_keys=("study", "trial", "metric")
        )
        self._ended = Counter(
            "spinlock_ended", "Trials that have ended", tag_keys=("study", "state", "rule")
        )

    def __call__(self, event: Event, _: Ledger) -> None:
        """Tell what the event brings."""
        if isinstance(event, Reported):
            trial = {"study": self._study, "trial": str(event.trial)}
            self._epoch.set(event.epoch, trial)
            for name in self._metrics:
                if math.isfinite(value := event.metrics.get(name, math.nan)):
                    self._metric.set(value, trial | {"metric": name})
        if isinstance(event, Reported | Ended) and event.verdict is not None:
            how = {"state": str(event.verdict.state), "rule": event.verdict.rule}
            self._ended.inc(1, {"study": self._study} | how)
