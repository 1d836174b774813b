"""A NOA and a tokenizer searched apart, at once, on the same ground truth; then validated together.

    DIRECTORY/noa, vqvae            the two searches, each as if it were alone
    DIRECTORY/best-noa, best-vqvae  the best of each, as an artifact
    DIRECTORY/validation            report.json, PNG files and index.html

The recommended way of the training guide of 2026-01-25 ("CNO-trained architecture").
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from spinlock.config import Config, dotted, load, replace
from spinlock.errors import ConfigError, SearchError
from spinlock.search import prepare, preview, results
from spinlock.search.ledger import EVENTS
from spinlock.search.space import Study
from spinlock.search.trainables import TRAINABLES

REPORT, VALIDATION = "report.json", "validation"


class Pair(Config):
    """The file of a study of both: the study file of each, beside it."""

    noa: Path
    vqvae: Path

    @classmethod
    def read(cls, path: Path) -> dict[str, Path]:
        """The two files by the names of their trainables. Raises ConfigError for a faulty file."""
        pair = load(cls, path)
        return {"noa": path.parent / pair.noa, "vqvae": path.parent / pair.vqvae}


def plan(
    spaces: Mapping[str, Path],
    overrides: Sequence[str],
    data: str | Path | None,
    *,
    elsewhere: bool = False,
) -> dict[str, Study]:
    """The studies by the names of their trainables, checked, and independent of each other.

    `overrides` begin with the name of theirs: `noa.trials=3`. Raises ConfigError for a NOA that is
    aligned with a tokenizer, and for a study without a single best.
    """
    sorted_out = _by_name(overrides, tuple(spaces))
    studies = {
        name: prepare.plan(
            space,
            TRAINABLES[name],
            sorted_out[name],
            files={"data.path": data},
            elsewhere=elsewhere,
        )
        for name, space in spaces.items()
    }
    for name, study in studies.items():
        if len(study.goals) > 1:
            raise ConfigError(
                f"{spaces[name]}: objectives have no single best trial to validate. Give one "
                "objective."
            )
        if dotted(study.training).get("tokenizer") is not None or "tokenizer" in study.space:
            raise ConfigError(
                f"{spaces[name]}: training.tokenizer is given, but the searches are side by side: "
                "the tokenizer is being searched for. Leave it out, and lambda_commit and "
                "lambda_latent at 0."
            )
    files = {str(dotted(study.training)["data.path"]) for study in studies.values()}
    if len(files) > 1:
        raise ConfigError(
            f"the studies are of different data, {' and '.join(sorted(files))}: what is validated "
            "must be of the same. Give one file with --data."
        )
    noa = studies["noa"]
    alone = noa.model_copy(update={"training": replace(noa.training, {"tokenizer": None})})
    return {**studies, "noa": alone}


def _by_name(overrides: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name, _, rest = override.partition(".")
        if name not in found or not rest:
            choice = " or ".join(f"{each}.KEY=VALUE" for each in names)
            raise ConfigError(f"--set {override}: say whose it is: {choice}.")
        found[name].append(rest)
    return found


def refuse_begun(directory: Path, names: Sequence[str]) -> None:
    """Raises SearchError if one of the searches has begun."""
    begun = [name for name in names if (directory / name / EVENTS).is_file()]
    if begun:
        raise SearchError(
            f"{directory}: the search of the {' and the '.join(begun)} stands here. Add --resume "
            "to go on with it, or choose another --experiment."
        )


def show_plans(console: Console, studies: Mapping[str, Study]) -> None:
    """Print what each search would do."""
    for name, study in studies.items():
        console.rule(name, align="left")
        preview.show_plan(console, study, TRAINABLES[name])


def validate_best(directory: Path, studies: Mapping[str, Study]) -> None:
    """Export the best of both, roll the one out and show it to the other; written and shown.

    Raises SearchError where a search has no healthy trial.
    """
    from spinlock.evaluation import output, validation_tables  # a third of every launch's start
    from spinlock.evaluation.validation import validate
    from spinlock.evaluation.validation_picture import draw

    best = {name: directory / f"best-{name}" for name in studies}
    for name, place in best.items():
        exported = results.export(directory / name, place, TRAINABLES)
        print(f"{place}: trial {exported.best.trial}, epoch {exported.best.epoch}")
    data = Path(dotted(studies["noa"].training)["data.path"])
    report = validate(best["noa"], best["vqvae"], data)
    output.show(validation_tables.tables(report))
    output.write(directory / VALIDATION / REPORT, report.document())
    print(draw(report, directory / VALIDATION))
