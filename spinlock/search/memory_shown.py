"""What the trials of a search have shown of memory, for the plans of those that follow."""

import math
from collections.abc import Mapping
from itertools import islice

from spinlock.search.memory_model import Known, Peak
from spinlock.search.trial import Trial

KEPT = 200  # the newest peaks that a model is fitted to


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

    def epoch(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        """An epoch that the trial began with the micro-batch that it has.

        The peak of one that ran out of memory belongs to no micro-batch, so it tells nothing.
        """
        sizing, before = trial.sizing, trial.micro_batch
        measured = {"micro_batch", "peak_memory_bytes"} <= metrics.keys()
        if sizing is None or before is None or not measured:
            return
        now = int(metrics["micro_batch"])
        if now < before:
            self.failure(trial)
            return
        footprint, last = sizing.footprint, self._peaks.get((trial.number, now))
        peak = metrics["peak_memory_bytes"] - footprint.on(sizing.device)
        if last is None or peak > last.peak:
            self._peaks[trial.number, now] = Peak(footprint, now, peak)

    def failure(self, trial: Trial) -> None:
        """There was no room for the trial with the micro-batch that it has."""
        if trial.sizing is not None:  # else nothing was predicted of it
            self._failed = min(self._failed, trial.predicted)
