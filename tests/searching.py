"""A small real trainable for tests of the search: linear regression by gradient descent.

It reports the metrics of a NOA run, and can be told to climb, to go NaN, to die or to wait.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from spinlock import artifact
from spinlock.config import Config
from spinlock.errors import ArtifactError
from spinlock.search.book import Book
from spinlock.search.checkpoints import Report
from spinlock.search.ledger import Ledger
from spinlock.search.rules import Stop
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.study import run
from spinlock.search.trial import Trial
from spinlock.training.guards import Guard


class Loss(Config):
    lambda_commit: float = Field(0.5, ge=0)


class Optimizer(Config):
    lr: float = Field(0.05, gt=0)


class RegressionConfig(Config):
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    batch_size: int = Field(8, ge=1)
    epochs: int = Field(4, ge=1)
    val_every_n_epochs: int = Field(1, ge=1)
    seed: int = 0
    seconds: float = 0.0  # each epoch takes at least so long
    nan_above: float = 1e30  # lr above which the second epoch is NaN
    climb_above: float = 1e30  # lambda_commit above which val/commit climbs
    die_once: Path | None = None  # the process kills itself after epoch 2 unless this file exists
    raise_below: float = 0.0  # lr below which training raises
    raise_without: Path | None = None  # training raises as long as this file is not there
    die_above: float = 1e30  # lr above which it does so


class RegressionTrainer:
    """Gradient descent on a fixed problem; everything that changes is in `save`."""

    def __init__(self, config: RegressionConfig) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(config.seed)
        self.config = config
        self.inputs = torch.randn(64, 4, generator=generator)
        self.targets = self.inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        self.weights = torch.zeros(4)
        self.epoch = self.batch = 0
        self.on_step: Callable[[RegressionTrainer], None] | None = None

    def epochs(self) -> Iterator[Report]:
        every, last = self.config.val_every_n_epochs, self.config.epochs
        while self.epoch < last:
            report = self._epoch()
            if report.stop is not None or self.epoch % every == 0 or self.epoch == last:
                yield report

    def _epoch(self) -> Report:
        config, started = self.config, time.perf_counter()
        if config.optimizer.lr < config.raise_below:
            raise ValueError(f"a rate of {config.optimizer.lr} cannot be")
        if config.raise_without is not None and not config.raise_without.exists():
            raise ValueError(f"{config.raise_without} is not there")
        while (first := self.batch * config.batch_size) < 48:
            part = slice(first, min(48, first + config.batch_size))
            error = self.inputs[part] @ self.weights - self.targets[part]
            gradient = 2 * self.inputs[part].T @ error / len(error)
            self.weights = self.weights - config.optimizer.lr * gradient
            self.batch += 1
            time.sleep(config.seconds * config.batch_size / 48)
            if self.on_step is not None:
                self.on_step(self)
        self.epoch, self.batch = self.epoch + 1, 0
        if config.optimizer.lr > config.nan_above and self.epoch >= 2:
            return Report(self.epoch, {"val/traj": math.nan}, Stop("nonfinite", "the loss is NaN"))
        dying = config.die_once is not None and config.optimizer.lr > config.die_above
        if dying and self.epoch == 3 and not config.die_once.exists():
            config.die_once.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = self.evaluate()
        metrics["train/total"] = metrics["val/traj"] * (1 + config.loss.lambda_commit)
        metrics["seconds"] = time.perf_counter() - started
        return Report(self.epoch, metrics)

    def evaluate(self) -> dict[str, float]:
        error = self.inputs[48:] @ self.weights - self.targets[48:]
        traj = float(error.square().mean())
        climbs = self.config.loss.lambda_commit > self.config.climb_above
        commit = 0.1 * 3.0**self.epoch if climbs else 0.1 / self.epoch
        return {"val/traj": traj, "val/commit": commit, "val/latent": traj / 2}

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        state = {"weights": self.weights, "epoch": self.epoch, "batch": self.batch}
        torch.save(state, directory / "state.pt")

    def restore(self, directory: Path) -> None:
        try:
            state = torch.load(directory / "state.pt", weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise ArtifactError(f"{directory}: damaged: {error}") from None
        self.weights, self.epoch, self.batch = state["weights"], state["epoch"], state["batch"]


class Regression:
    """The trainable around it."""

    name = "regression"
    model = RegressionConfig
    metrics = ("train/total", "val/traj", "val/commit", "val/latent")
    columns = ("val/traj", "val/commit", "val/latent")
    weighed = {"train/total": ("loss.lambda_commit",)}  # noqa: RUF012
    optional = {}  # noqa: RUF012

    def objection(self, guard: Guard) -> str | None:
        return "not here" if guard.metric == "val/latent" else None

    def reporting(self, config: RegressionConfig) -> tuple[int, ...]:
        every, last = config.val_every_n_epochs, config.epochs
        return tuple(e for e in range(1, last + 1) if e % every == 0 or e == last)

    def footprint(self, _: RegressionConfig) -> None:
        return None

    def build(self, config: RegressionConfig) -> RegressionTrainer:
        return RegressionTrainer(config)

    def facts(self, config: RegressionConfig) -> dict[str, Any]:
        return {"problem": f"seed {config.seed}"}

    def export(
        self,
        config: RegressionConfig,
        checkpoint: Path,
        out: Path,
        *,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        trainer = RegressionTrainer(config)
        trainer.restore(checkpoint)
        artifact.save(
            out,
            kind="regression",
            config={"training": config.model_dump(mode="json"), "epoch": trainer.epoch},
            weights={"weights": trainer.weights},
            metrics=metrics,
            provenance=provenance,
        )

    def evaluate(self, path: Path) -> dict[str, float]:
        found = artifact.load(path, "regression")
        trainer = RegressionTrainer(RegressionConfig(**found.config["training"]))
        trainer.weights, trainer.epoch = found.weights["weights"], found.config["epoch"]
        return trainer.evaluate()


def without_ray(study: Study, directory: Path) -> Ledger:
    """The search that `study` describes, one trial after the other in this process."""
    trainable = Regression()

    def configured(trial: Trial) -> RegressionConfig:
        return RegressionConfig.model_validate(study.configuration(trial.parameters))

    book = Book.open(
        directory,
        study,
        trainable=trainable.name,
        facts={},
        reporting=lambda trial: trainable.reporting(configured(trial)),
        resume=False,
    )
    sampler = Sampler.open(directory, book.ledger)
    while book.ledger.left:
        number = len(book.ledger.trials)
        trial = book.suggested(sampler.ask(number))
        for report in RegressionTrainer(configured(trial)).epochs():
            if book.report(number, report.epoch, report.metrics, report.stop) is not None:
                break
        sampler.tell(trial)
    book.close()
    return book.ledger


def told(ledger: Ledger) -> dict[int, tuple[Any, ...]]:
    """Everything that a search decided and measured, but for the clock."""
    return {
        number: (
            trial.parameters,
            {
                epoch: {k: repr(v) for k, v in metrics.items() if k != "seconds"}
                for epoch, metrics in trial.history.items()
            },
            trial.verdict,
        )
        for number, trial in ledger.trials.items()
    }


if __name__ == "__main__":
    # python searching.py DIRECTORY STUDY.json [--resume]: a driver of its own, to be killed.
    result = run(
        Study.model_validate_json(Path(sys.argv[2]).read_text()),
        Regression(),
        Path(sys.argv[1]),
        resume="--resume" in sys.argv,
        dashboard=False,
    )
    sys.exit(0 if result.finished else 130)
