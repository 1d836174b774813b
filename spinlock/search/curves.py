"""A trial's curves for TensorBoard: an event file in the trial's directory, step = epoch.

`tensorboard --logdir <experiment>/trials` shows the trials by their numbers.
"""

import math
import time
from pathlib import Path

from spinlock.search.checkpoints import Report


class Curves:
    """Written by the process that trains the trial, from its first report on."""

    def __init__(self, trial: Path) -> None:
        # Imported where it is first needed: no trial starts later for it.
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(trial))

    def report(self, report: Report) -> None:
        """Add an epoch; what is not finite is left out."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in report.metrics.items()
            if math.isfinite(value)
        ]
        summary = Summary(value=values)
        self._writer.add_event(Event(wall_time=time.time(), step=report.epoch, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
