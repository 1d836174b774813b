"""A finished or running tokenizer training, read back from the directory that it writes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from spinlock import artifact
from spinlock.data import open_dataset
from spinlock.errors import ArtifactError, DatasetError
from spinlock.evaluation.source import standardized_features
from spinlock.training.batches import split
from spinlock.training.config import VQVAETraining, training_config
from spinlock.training.outputs import BEST, run_of
from spinlock.vqvae import Tokenizer

HISTORY, RESULTS = "training_history.json", "metrics.json"


@dataclass(frozen=True)
class VQVAERun:
    """What `spinlock train-vqvae` has left in `path`. Metrics that were not finite are None."""

    path: Path
    tokenizer: Tokenizer
    config: VQVAETraining
    fingerprint: str
    """Of the data that it was trained on."""
    kept: int
    """The epoch whose model was kept, from 1."""
    best: Mapping[str, float | None]
    """Its metrics."""
    history: list[tuple[int, Mapping[str, float | None]]]
    """Epochs, from 1, with their metrics; those without validation have fewer."""
    quality: Mapping[str, Any] | None
    """Per category and codebook, see `spinlock.vqvae.Quality`; None until the run has ended."""


@dataclass(frozen=True)
class RunData:
    """The standardized features of a run, and which rows of them it was trained on."""

    features: Float[Tensor, "N D"]
    training: list[int]
    validation: list[int]


def load_run(path: Path) -> VQVAERun:
    """The run in directory `path`, or whose best model that is.

    Raises ArtifactError when it is none, or damaged.
    """
    path = run_of(path)
    if not (path / BEST).is_dir():
        raise ArtifactError(
            f"{path}: no run of `spinlock train-vqvae`: there is no {BEST} in it. Give the "
            "directory that was its --output."
        )
    found = artifact.load(path / BEST, "vqvae")
    history = _read(path / HISTORY)
    if history is None:
        raise ArtifactError(f"{path / HISTORY}: missing. It is written with {BEST}; copy both.")
    try:
        training, fingerprint = found.provenance["training"], found.provenance["facts"]["data"]
        best = {name: value for name, value in found.metrics.items() if name != "epoch"}
        kept = int(found.metrics["epoch"])
        epochs = [(int(row["epoch"]), row["metrics"]) for row in history["history"]]
        results = _read(path / RESULTS)
        quality = None if results is None else results["quality"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: its records are damaged: {error} is missing.") from None
    config = training_config(training, where=str(path / BEST))
    assert isinstance(config, VQVAETraining)
    return VQVAERun(
        path=path,
        tokenizer=Tokenizer.load(path / BEST),
        config=config,
        fingerprint=fingerprint,
        kept=kept,
        best=best,
        history=epochs,
        quality=quality,
    )


def load_data(
    run: VQVAERun,
    dataset: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunData:
    """The features of the samples that the run split into training and validation.

    `dataset` says where the file is now, if it has moved. Raises DatasetError when it is not
    there, or not the one that the run was trained on.
    """
    path = run.config.data.path if dataset is None else dataset
    opened = open_dataset(path)
    if opened.info.fingerprint != run.fingerprint:
        raise DatasetError(
            f"{path}: not what {run.path} was trained on: its fingerprint is "
            f"{opened.info.fingerprint}, the run's {run.fingerprint}."
        )
    known = split(opened.info, run.config.data, run.config.seed)
    windows = run.config.windows
    features = standardized_features(
        run.tokenizer,
        opened,
        [*known.train, *known.validation],
        windows=windows,
        progress=progress,
    )
    count = len(known.train) * windows
    return RunData(features, [*range(count)], [*range(count, len(features))])


def _read(path: Path) -> Any:
    """JSON in `path`; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}.") from None
