"""What the memory of a run grows with, and what was measured of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Amounts in bytes that are there `once`, and `per_sample` of a micro-batch, by their names.

    How many real bytes go with one of them differs from device to device, and is fitted to
    measured peaks (`spinlock.search.memory_model`).
    """

    once: dict[str, float]
    per_sample: dict[str, float]
    samples: int
    """Of an update: a micro-batch has as many at most."""
    data: float = 0.0
    """Bytes of the data, exactly: they lie on the host, and in no `amounts`."""

    def on(self, device: str) -> float:
        """Bytes of the data on this device."""
        return self.data if device == "cpu" else 0.0

    def amounts(self, micro_batch: int) -> dict[str, float]:
        """All of them, with a micro-batch of so many samples."""
        return self.once | {name: micro_batch * x for name, x in self.per_sample.items()}


@dataclass(frozen=True)
class Probe:
    """An update with a micro-batch of so many samples: bytes at its peak, and its seconds."""

    micro_batch: int
    peak: int
    seconds: float
    forward: float
    """Seconds of them until the losses were there."""
