"""A run's curves for other programs: TensorBoard's event files, and an MLflow server when asked.

An update stands at its number, from 0, as `batch/...`; an epoch at the number of updates done by
then, under its metrics' own names. A run that goes on takes back whatever an interrupted one has
logged beyond the checkpoint, so that no step stands twice.
"""

import math
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from spinlock.config import dotted
from spinlock.errors import SpinlockError
from spinlock.training.state import EpochReport, UpdateReport
from spinlock.training.trainer import Trainer


class TensorBoard:
    """Event files in `directory`, of a run that begins or goes on where `trainer` is now."""

    def __init__(self, directory: Path, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second of every command's start

        begun = trainer.state.global_step
        self._writer = SummaryWriter(str(directory), purge_step=begun)
        self._batches = trainer.batches
        for row in trainer.state.history:  # purged with all else at this step
            report = EpochReport.of(row)
            if report.epoch * self._batches >= begun > 0:
                self.epoch(report, begun)

    def update(self, update: UpdateReport, lr: float, step: int) -> None:
        """Log update number `step`."""
        values = {
            **update.losses,
            "gradient_norm": update.gradient_norm,
            "lr": lr,
            "seconds": update.seconds,
        }
        for name, value in values.items():
            self._writer.add_scalar(f"batch/{name}", value, step)

    def epoch(self, report: EpochReport, step: int) -> None:
        """Log an epoch that ended after `step` updates."""
        for name, value in report.metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def flush(self) -> None:
        """Bring everything logged to disk, as a checkpoint is."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run on the MLflow server at `uri`: the configuration, and every epoch's metrics.

    MLflow cannot take a step back, so a run that goes on is a run of its own there, named alike
    and tagged with the step that it begins at. Raises SpinlockError when mlflow is not installed
    or the server does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            self._mlflow: ModuleType = import_module("mlflow")
        except ModuleNotFoundError:
            raise SpinlockError(
                f"--mlflow {uri}: mlflow is not installed. Install it (pip install mlflow), or "
                "leave --mlflow out: TensorBoard's events are written anyway."
            ) from None

    def run(self, name: str, trainer: Trainer) -> AbstractContextManager[Any]:
        """Begin the run; the context ends it, as failed if by an exception."""
        try:
            self._mlflow.set_tracking_uri(self._uri)
            self._mlflow.set_experiment("spinlock train-noa")
            run: AbstractContextManager[Any] = self._mlflow.start_run(
                run_name=name, tags={"begins_at_step": str(trainer.state.global_step)}
            )
            self._mlflow.log_params(dotted(trainer.config.model_dump(mode="json")))
        except self._mlflow.exceptions.MlflowException as error:
            raise SpinlockError(f"--mlflow {self._uri}: {error}") from None
        return run

    def epoch(self, report: EpochReport, step: int) -> None:
        """Log an epoch that ended after `step` updates; what is not finite is left out."""
        finite = {k: v for k, v in report.metrics.items() if math.isfinite(v)}
        self._mlflow.log_metrics(finite, step=step)
