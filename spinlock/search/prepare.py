"""From a space's file and what the command line gives to a study that can run.

The study is checked as a whole before anything is made, so that a misspelt key is answered in
a second; then a missing dataset and a missing tokenizer are made once and reused.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinlock.config import dotted, parse, replace
from spinlock.progress import bar
from spinlock.search.check import load_study
from spinlock.search.noa import NOA
from spinlock.search.space import Study
from spinlock.training import prepare
from spinlock.training.config import NOATraining

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
    """The study, checked; files that are still to be made stand in it as `made-on-the-spot`."""
    given = {"data.path": data, "tokenizer": tokenizer}
    return load_study(
        space,
        NOA(),
        overrides,
        fixed={key: str(path.resolve()) for key, path in given.items() if path is not None},
        defaults={key: str(_LATER) for key in given},
    )


def fulfil(study: Study, recipes: Recipes, say: Callable[[str], None]) -> Prepared:
    """Make what is missing: a dataset by its recipe, then a tokenizer of the dataset.

    Paths are made absolute: trials run in directories of their own.
    """
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
    base = _base(study)
    if training["tokenizer"] == str(_LATER):
        data, frames = Path(training["data.path"]), base.rollout.timesteps + 1
        training["tokenizer"] = made("tokenizer", lambda: _tokenizer(recipes, data, frames))
    if training["tokenizer"] is not None:
        training["tokenizer"] = str(Path(training["tokenizer"]).resolve())
    ready = study.model_copy(update={"training": replace({}, training)})
    return Prepared(ready, base.epochs, seconds)


def _dataset(recipes: Recipes) -> Path:
    with bar("operators") as shown:
        task = shown.add_task("dataset", total=None)
        return prepare.dataset(
            recipes.dataset,
            recipes.artifacts,
            lambda made: shown.update(task, completed=made.done, total=made.total),
        )


def _tokenizer(recipes: Recipes, data: Path, frames: int) -> Path:
    with bar("epochs") as shown:
        task = shown.add_task("tokenizer", total=None)
        return prepare.tokenizer(
            recipes.tokenizer,
            data,
            frames,
            recipes.artifacts,
            progress=lambda report, epochs: shown.update(
                task, completed=report.epoch, total=epochs
            ),
        )


def _base(study: Study) -> NOATraining:
    """The training at one corner of the space."""
    first = study.configuration({key: p.extremes[0] for key, p in study.space.items()})
    return parse(NOATraining, first, where=study.name)
