"""What the trials of a search have shown of memory, for the plans of those that follow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from spinlock.search.events import Sizing
from spinlock.search.memory_model import Peak

KEPT = 200  # the newest peaks that a model is fitted to


@dataclass(frozen=True)
class Known:
    """What the log tells a plan: peaks that were measured, and the least prediction that failed.

    A trial that ran out of memory, or that a memory monitor killed, shows by what was predicted of
    it that there is no room for so much.
    """

    peaks: tuple[Peak, ...] = ()
    failed: float = math.inf


class Shown:
    """Fold of the reports: for each trial and micro-batch the largest peak of an epoch."""

    def __init__(self) -> None:
        self._peaks: dict[tuple[int, int], Peak] = {}
        self._failed = math.inf

    @property
    def known(self) -> Known:
        """The newest peaks, in the order in which they were first measured."""
        newest = [*islice(reversed(self._peaks.values()), KEPT)]
        return Known(tuple(reversed(newest)), self._failed)

    def epoch(
        self, number: int, sizing: Sizing, micro_batch: int, metrics: Mapping[str, float]
    ) -> None:
        """An epoch that was begun with `micro_batch`.

        The peak of one that ran out of memory belongs to no micro-batch, so it tells nothing.
        """
        if not {"micro_batch", "peak_memory_bytes"} <= metrics.keys():
            return
        now = int(metrics["micro_batch"])
        if now < micro_batch:
            self.failure(sizing, micro_batch)
            return
        footprint, last = sizing.footprint, self._peaks.get((number, now))
        peak = metrics["peak_memory_bytes"] - footprint.on(sizing.device)
        if last is None or peak > last.peak:
            self._peaks[number, now] = Peak(footprint, now, peak)

    def failure(self, sizing: Sizing, micro_batch: int) -> None:
        """There was no room for so much."""
        self._failed = min(self._failed, sizing.predicted(micro_batch))
