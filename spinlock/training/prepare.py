"""What a search stands on, made once and reused: a dataset, and a tokenizer trained on data.

Both are kept under a directory named by what made them, so that a changed recipe makes a new
one and never reuses the old.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spinlock import artifact, config
from spinlock.config import replace
from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, Progress, generate
from spinlock.errors import TrainingError
from spinlock.training.config import VQVAETraining
from spinlock.training.trainer import EpochReport, Trainer


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
    data: Path,
    frames: int,
    artifacts: Path,
    *,
    seed: int = 0,
    progress: Callable[[EpochReport, int], None] | None = None,
) -> Path:
    """The tokenizer of `data`'s first `frames` frames by `recipe`; trained if not there.

    `progress(report, epochs)` is called after each epoch. Of all epochs the one with the best
    reconstruction of held-out features is kept.
    """
    document, lines = config.read(recipe)
    document = replace(document, {"data.path": str(data), "frames": frames, "seed": seed})
    wanted = config.parse(VQVAETraining, document, where=str(recipe), lines=lines)
    fingerprint = open_dataset(data).info.fingerprint
    content = replace(wanted.model_dump(mode="json"), {"data.path": fingerprint})
    path = artifacts / f"vqvae-{_digest(content)}"
    if not path.exists():
        train_and_export(Trainer(wanted), path, progress=progress)
    return path


def train_and_export(
    trainer: Trainer,
    path: Path,
    *,
    progress: Callable[[EpochReport, int], None] | None = None,
) -> EpochReport:
    """Train to the end and keep at `path` the artifact of the epoch with the best `selection`.

    Raises TrainingError with the trainer's own sentence if no epoch gave a finite score.
    """
    best, provenance = None, artifact.provenance(seed=trainer.config.seed)
    for report in trainer.epochs():
        if trainer.state.best_epoch == report.epoch:
            best = report
            trainer.task.export(path, {"epoch": report.epoch, **report.metrics}, provenance)
        if progress is not None:
            progress(report, trainer.config.epochs)
    if best is None:
        last = trainer.last_report
        reason = last.stop.sentence if last is not None and last.stop is not None else "no epoch"
        raise TrainingError(f"{path}: nothing to keep: {reason}.")
    return best


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
