"""What a search stands on, made once and reused: a dataset, and a tokenizer trained on data.

Both are kept under a directory named by what made them, so that a changed recipe makes a new
one and never reuses the old.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spinlock import artifact, config
from spinlock.config import replace
from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, Progress, generate
from spinlock.errors import TrainingError
from spinlock.training.config import DataConfig, VQVAETraining
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer
from spinlock.vqvae.tokenizer import WEIGHTS


def dataset(
    recipe: Path, artifacts: Path, progress: Callable[[Progress], None] | None = None
) -> Path:
    """The dataset that the YAML file `recipe` describes, under `artifacts`; made if not there.

    An interrupted generation goes on where it stopped.
    """
    wanted = config.load(GenerateConfig, recipe)
    path = artifacts / f"dataset-{_digest(wanted.model_dump(mode='json', exclude={'batch'}))}.h5"
    if not path.exists():
        generate(wanted, path, progress=progress)
    return path


def tokenizer(
    recipe: Path,
    data: DataConfig,
    frames: int,
    artifacts: Path,
    *,
    seed: int,
    progress: Callable[[EpochReport, int], None] | None = None,
) -> Path:
    """The tokenizer of `data`'s first `frames` frames by `recipe`; trained if not there.

    With the data section and seed of the NOA that it will align, both hold out the same
    operators. `progress(report, epochs)` is called after each epoch. Of all epochs the one with
    the best reconstruction of held-out features is kept. It appears under its name only when
    training has ended: one that was interrupted is never taken for finished.
    """
    document, lines = config.read(recipe)
    filled = {"data": data.model_dump(mode="json"), "frames": frames, "seed": seed}
    wanted = config.parse(VQVAETraining, replace(document, filled), where=str(recipe), lines=lines)
    fingerprint = open_dataset(data.path).info.fingerprint
    content = replace(
        wanted.model_dump(mode="json"), {"data.path": fingerprint, "weights": WEIGHTS}
    )
    path = artifacts / f"vqvae-{_digest(content)}"
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            train_and_export(Trainer(wanted), unfinished, progress=progress)
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return path


def train_and_export(
    trainer: Trainer,
    path: Path,
    *,
    progress: Callable[[EpochReport, int], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> EpochReport:
    """Train to the end and keep at `path` the artifact of the epoch with the best `selection`.

    `origin` is added to the artifact's provenance. A restored trainer goes on, and what it kept
    at `path` stays unless an epoch is better. Raises TrainingError with the trainer's own sentence
    if no epoch gave a finite score.
    """
    provenance = artifact.provenance(seed=trainer.config.seed, **(origin or {}))
    for report in trainer.epochs():
        if trainer.state.best_epoch == report.epoch:
            trainer.task.export(path, {"epoch": report.epoch, **report.metrics}, provenance)
        if progress is not None:
            progress(report, trainer.config.epochs)
    best, last = trainer.state.best_report, trainer.last_report
    if best is None:
        reason = last.stop.sentence if last is not None and last.stop is not None else "no epoch"
        raise TrainingError(f"{path}: nothing to keep: {reason}.")
    if not path.exists():
        raise TrainingError(
            f"{path}: the best epoch, {best.epoch}, was kept here before the run was resumed, "
            "and is gone. Put it back, or train anew."
        )
    return best


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
