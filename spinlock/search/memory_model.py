"""Peak memory as a function of micro-batch and configuration, fitted to measured peaks.

    peak ~ sum over amounts of  rate[name] * amount[name]

with the amounts of a `Footprint` and rates that are never negative, so a larger micro-batch is
never predicted to take less. Fitted by least squares of the relative error. A plan reckons with
more than that: with the peaks that lay highest above the line. Pure: equal peaks, equal plans.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spinlock.training.footprint import Footprint

QUANTILE = 0.9  # so many of the peaks lie below what a plan reckons with
LEAST_MARGIN = 0.1  # repeated runs of one setting on a host differ by so much
FEW, FEW_MARGIN = 8, 0.15  # of fewer peaks a quantile says little


@dataclass(frozen=True)
class Peak:
    """Bytes that a run took at its most, its data aside; greater `weight` is met more closely."""

    footprint: Footprint
    micro_batch: int
    peak: float
    weight: float = 1.0


@dataclass(frozen=True)
class Known:
    """What the log tells a plan: peaks that were measured, and the least prediction that failed.

    A trial that ran out of memory, or that a memory monitor killed, shows by what was predicted of
    it that there is no room for so much.
    """

    peaks: tuple[Peak, ...] = ()
    failed: float = math.inf


@dataclass(frozen=True)
class MemoryModel:
    """Rates by the names of amounts; `margin` is the share by which a plan reckons with more."""

    rates: dict[str, float]
    margin: float

    @classmethod
    def fit(cls, peaks: Sequence[Peak]) -> "MemoryModel":
        """The model of these peaks. Raises ValueError without any."""
        from scipy.optimize import nnls  # 0.2 s, which most trials' processes do not need

        if not peaks:
            raise ValueError("a memory model is fitted to measured peaks, and there are none")
        amounts = [peak.footprint.amounts(peak.micro_batch) for peak in peaks]
        names = sorted({name for row in amounts for name in row})
        rows = np.array([[row.get(name, 0.0) for name in names] for row in amounts])
        measured = np.array([peak.peak for peak in peaks])
        weights = np.sqrt([peak.weight for peak in peaks])
        relative = rows / measured[:, None]
        scale = np.maximum(relative.max(0), np.finfo(float).tiny)  # one size, so that it converges
        found, _ = nnls(relative / scale * weights[:, None], weights)
        rates = dict(zip(names, (found / scale).tolist(), strict=True))
        model = cls(rates, FEW_MARGIN)
        if len(peaks) < FEW:
            return model
        above = [p.peak / model.predict(p.footprint, p.micro_batch) - 1 for p in peaks]
        return cls(rates, max(LEAST_MARGIN, float(np.quantile(above, QUANTILE))))

    def line(self, footprint: Footprint) -> tuple[float, float]:
        """Bytes that are there once, and for each sample of a micro-batch, without the margin."""
        once = sum(self.rates.get(name, 0.0) * x for name, x in footprint.once.items())
        each = sum(self.rates.get(name, 0.0) * x for name, x in footprint.per_sample.items())
        return once, each

    def predict(self, footprint: Footprint, micro_batch: int) -> float:
        """Bytes at the peak, as likely too few as too many."""
        once, each = self.line(footprint)
        return once + each * micro_batch

    def largest(self, footprint: Footprint, *, most: int, limit: float) -> int:
        """The largest micro-batch up to `most` whose peak is to be below `limit`, else 0.

        As even as the batch divides: three of 6 samples in place of 7, 7 and 4.
        """
        once, each = self.line(footprint)
        room = limit / (1 + self.margin) - once
        if room < each:
            return 0
        fits = most if room >= each * most else math.floor(room / each)
        fits = max(1, fits)
        return math.ceil(most / math.ceil(most / fits))
