"""From a space's file and what the command line gives to a study that can run.

The study is checked as a whole before anything is made, so that a misspelt key is answered in
a second; then a missing dataset and a missing tokenizer are made once and reused.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinlock.config import dotted, parse, replace
from spinlock.data import open_dataset
from spinlock.files import own_directory
from spinlock.progress import bar
from spinlock.search.check import load_study
from spinlock.search.noa import NOA
from spinlock.search.space import Study
from spinlock.training import prepare
from spinlock.training.config import NOATraining
from spinlock.training.inputs import open_inputs
from spinlock.vqvae import Tokenizer

_LATER = Path("made-on-the-spot")


@dataclass(frozen=True)
class Recipes:
    """Where the default dataset and tokenizer are described, and where what is made goes."""

    dataset: Path
    tokenizer: Path
    artifacts: Path


@dataclass(frozen=True)
class Prepared:
    """A study with its files in place, the length of its runs, and what each part took."""

    study: Study
    epochs: int
    seconds: dict[str, float]


def plan(
    space: Path, overrides: Sequence[str], *, data: Path | None, tokenizer: Path | None
) -> Study:
    """The study, checked; files that are still to be made stand in it as `made-on-the-spot`.

    Files that are there already are held against every extreme of the space.
    """
    given = {"data.path": data, "tokenizer": tokenizer}
    study = load_study(
        space,
        NOA(),
        overrides,
        fixed={key: str(path.resolve()) for key, path in given.items() if path is not None},
        defaults={key: str(_LATER) for key in given},
    )
    inspect(study)
    return study


def inspect(study: Study) -> None:
    """Raise SpinlockError unless the files fit each other and every extreme of the space."""
    for point in study.extremes():
        config = parse(NOATraining, study.configuration(point), where=study.name)
        if config.tokenizer == _LATER:
            config = config.model_copy(update={"tokenizer": None})
        if config.data.path != _LATER:
            open_inputs(config)
        elif config.tokenizer is not None:
            Tokenizer.load(config.tokenizer)


def fulfil(study: Study, recipes: Recipes, say: Callable[[str], None]) -> Prepared:
    """Make what is missing: a dataset by its recipe, then a tokenizer of the dataset.

    Paths are made absolute: trials run in directories of their own.
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

    if training["data.path"] == str(_LATER):
        training["data.path"] = made("dataset", lambda: _dataset(recipes))
    training["data.path"] = str(Path(training["data.path"]).resolve())
    base = _base(study, training)
    _verify(base.data.path, recipes.artifacts, say)
    if training["tokenizer"] == str(_LATER):
        training["tokenizer"] = made("tokenizer", lambda: _tokenizer(recipes, base))
    if training["tokenizer"] is not None:
        training["tokenizer"] = str(Path(training["tokenizer"]).resolve())
    ready = study.model_copy(update={"training": replace({}, training)})
    inspect(ready)
    return Prepared(ready, base.epochs, seconds)


def _verify(data: Path, artifacts: Path, say: Callable[[str], None]) -> None:
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


def _base(study: Study, training: Mapping[str, Any]) -> NOATraining:
    """The training at one corner of the space, with `training` settings."""
    return parse(NOATraining, replace(replace({}, training), study.corner), where=study.name)
