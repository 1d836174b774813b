"""From a space's file and what the command line gives to a study that can run.

The study is checked as a whole before anything is made, so that a misspelt key is answered in
a second; then what is missing is made once and reused: a dataset, a tokenizer for a NOA, the
features for a VQ-VAE.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spinlock.config import dotted, parse, replace
from spinlock.data import open_dataset
from spinlock.files import own_directory
from spinlock.location import Uri, located, pinned
from spinlock.progress import bar
from spinlock.search.check import load_study
from spinlock.search.space import Study
from spinlock.search.trainable import Trainable
from spinlock.training import prepare
from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.tokenizers import read_tokenizer
from spinlock.training.trainer import Trainer

LATER = Path("made-on-the-spot")


@dataclass(frozen=True)
class Recipes:
    """Where the default dataset and tokenizer are described, and where what is made goes."""

    dataset: Path
    tokenizer: Path
    artifacts: Path


@dataclass(frozen=True)
class Prepared:
    """A study with its files in place, and what making each of them took."""

    study: Study
    seconds: dict[str, float]


def plan(
    space: Path,
    trainable: Trainable,
    overrides: Sequence[str],
    *,
    files: Mapping[str, str | Path | None],
    elsewhere: bool = False,
) -> Study:
    """The study, checked. `files` are training settings that name a file, with the paths or URIs
    that were given.

    Files that are still to be made stand in it as `made-on-the-spot`. Files that are there
    already are held against every extreme of the space, unless they are `elsewhere`.
    """
    study = load_study(
        space,
        trainable,
        overrides,
        fixed={key: _absolute(given) for key, given in files.items() if given is not None},
        defaults={key: str(LATER) for key in files},
    )
    if not elsewhere:
        inspect(study, trainable)
    return study


def inspect(study: Study, trainable: Trainable) -> None:
    """Raise SpinlockError unless the files fit each other and every extreme of the space."""
    for point in study.extremes():
        config = parse(trainable.model, study.configuration(point), where=study.name)
        if isinstance(config, NOATraining) and config.tokenizer == LATER:
            config = config.model_copy(update={"tokenizer": None})
        if not isinstance(config, NOATraining | VQVAETraining):
            raise TypeError(f"{type(config).__name__} names no files")
        if config.data.path != LATER:
            trainable.facts(config)
        elif isinstance(config, NOATraining) and config.tokenizer is not None:
            read_tokenizer(config.tokenizer)


def missing(study: Study) -> list[str]:
    """The files that are still to be made, by their names in a training configuration."""
    return [key for key, value in dotted(study.training).items() if value == str(LATER)]


def fulfil(
    study: Study, trainable: Trainable, recipes: Recipes, say: Callable[[str], None]
) -> Prepared:
    """Make what is missing: a dataset by its recipe, then what is learnt or computed from it.

    Paths are made absolute, since trials run in directories of their own, and URIs are pinned:
    every trial has the bytes that the search began with.
    """
    own_directory(recipes.artifacts, "what is made once")
    seconds: dict[str, float] = {}
    training = dotted(study.training)

    def made(kind: str, make: Callable[[], Path]) -> str:
        begun = time.perf_counter()
        path = make()
        seconds[kind] = time.perf_counter() - begun
        say(f"{kind}: {path} ({seconds[kind]:.1f} s)")
        return str(path)

    if training["data.path"] == str(LATER):
        training["data.path"] = made("dataset", lambda: _dataset(recipes))
    training["data.path"] = str(pinned(located(training["data.path"])))
    base = parse(trainable.model, replace(replace({}, training), study.corner), where=study.name)
    _verify(located(training["data.path"]), recipes.artifacts, say)
    if isinstance(base, NOATraining):
        if training["tokenizer"] == str(LATER):
            training["tokenizer"] = made("tokenizer", lambda: _tokenizer(recipes, base))
        if training["tokenizer"] is not None:
            training["tokenizer"] = str(pinned(located(training["tokenizer"])))
    if isinstance(base, VQVAETraining):
        cache = base.features_cache or recipes.artifacts / "features"
        training["features_cache"] = made("features", lambda: _features(cache.resolve(), base))
    ready = study.model_copy(update={"training": replace({}, training)})
    inspect(ready, trainable)
    return Prepared(ready, seconds)


def _absolute(given: str | Path) -> str:
    """A path from any directory. A URI is as it is, and a faulty one is told with the study's."""
    text = str(given)
    return text if "://" in text else str(Path(text).resolve())


def _verify(data: Path | Uri, artifacts: Path, say: Callable[[str], None]) -> None:
    """Read the whole file once in its life: a NaN in it must not surface hours into a trial."""
    dataset = open_dataset(data)
    mark = artifacts / f"verified-{dataset.info.fingerprint.rpartition(':')[2][:16]}"
    if not mark.exists():
        say(f"data: {dataset.verify()}")
        mark.touch()


def _dataset(recipes: Recipes) -> Path:
    with bar("operators") as shown:
        task = shown.add_task("dataset", total=None, visible=False)  # until there is work
        return prepare.dataset(
            recipes.dataset,
            recipes.artifacts,
            lambda made: shown.update(task, completed=made.done, total=made.total, visible=True),
        )


def _tokenizer(recipes: Recipes, base: NOATraining) -> Path:
    with bar("epochs") as shown:
        task = shown.add_task("tokenizer", total=None, visible=False)
        return prepare.tokenizer(
            recipes.tokenizer,
            base.data,
            base.rollout.timesteps + 1,
            recipes.artifacts,
            seed=base.seed,
            progress=lambda report, epochs: shown.update(
                task, completed=report.epoch, total=epochs, visible=True
            ),
        )


def _features(cache: Path, base: VQVAETraining) -> Path:
    """Compute the features once, for all trials to read; a run that could not start says so here.

    Trials that search the features' own settings compute theirs, each setting once.
    """
    # On the CPU: this process lives as long as the search, and would keep what it takes of a GPU.
    Trainer(base.model_copy(update={"features_cache": cache}), device=torch.device("cpu"))
    cache.mkdir(parents=True, exist_ok=True)  # stays empty where the file stores its features
    return cache
