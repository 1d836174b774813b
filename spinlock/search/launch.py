"""What the launch scripts share: their options, and the road from a space's file to its result."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from spinlock.config import parse
from spinlock.errors import SearchError
from spinlock.location import located
from spinlock.search import both, prepare, preview, summary
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.ranking import leaders
from spinlock.search.space import Study
from spinlock.search.trainable import Trainable
from spinlock.search.trainables import TRAINABLES
from spinlock.search.warm_start import earlier


def _on_disk(text: str) -> Path:
    if "://" in text:
        raise SearchError(
            f"{text}: an experiment is appended to and locked, which stores behind a URI do not "
            "do. Give a path that all nodes share, such as one of NFS or EFS."
        )
    return Path(text)


Space = Annotated[Path, typer.Option(help="The study: what is searched, and how.")]
Data = Annotated[
    str | None, typer.Option(metavar="PATH|URI", help="Dataset; made here if not given.")
]
Experiment = Annotated[
    Path | None, typer.Option(parser=_on_disk, help="Default: experiments/<name>.")
]
Trials = Annotated[int | None, typer.Option(help="In place of the study's number.")]
WarmStart = Annotated[list[Path] | None, typer.Option(help="An earlier search to learn from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the search.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show, and train nothing.")]
Address = Annotated[str | None, typer.Option(help="A running Ray; its dashboard for --submit.")]
Submit = Annotated[bool, typer.Option("--submit", help="As a job of the cluster at --address.")]
Artifacts = Annotated[Path, typer.Option(help="Where what is made here is kept.")]


def search(
    trainable: Trainable,
    space: Path,
    *,
    files: Mapping[str, str | Path | None],
    recipes: prepare.Recipes,
    overrides: list[str] | None,
    trials: int | None,
    warm_start: list[Path] | None,
    experiment: Path | None,
    resume: bool,
    dry_run: bool,
    address: str | None,
    submit: bool,
) -> None:
    """Check, make what is missing, search, show. Exits with 130 after Ctrl-C, 1 without a result.

    `files` are the training settings that name a file, with what the command line gave.
    """
    changes = [*(overrides or ()), *([f"trials={trials}"] if trials is not None else ())]
    if warm_start:
        found = [str(path if submit else path.resolve()) for path in warm_start]
        changes.append(f"warm_start={json.dumps(found)}")
    study = prepare.plan(space, trainable, changes, files=files, elsewhere=submit)
    console, place = Console(), experiment or Path("experiments") / study.name
    if submit:
        _submit([space], [study], files, experiment, recipes.artifacts, dry_run, address)
        return
    known = [] if (place / EVENTS).is_file() else earlier(study, trainable)  # later in the log
    if dry_run:
        for sentence in (sentence for each in known for sentence in each.sentences):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        preview.show_plan(console, study, trainable, experiment=place)
        return
    ready = prepare.fulfil(study, trainable, recipes, console.print)

    from spinlock.search.study import run  # Ray starts loading here, after all can be answered

    if resume and not (place / EVENTS).is_file():
        console.print(f"{place}: no search stands here yet; it begins now.", soft_wrap=True)
    result = run(ready.study, trainable, place, resume=resume, address=address, console=console)
    _show(console, ready, trainable, result.ledger, result.experiment)
    if not result.finished:
        _interrupted(console, result.ledger.broken)
    best = leaders(result.ledger)
    if not best:
        raise typer.Exit(1)
    choice = "" if len(best) == 1 else f" --trial {best[0].number}"
    console.print(
        f"Next: {_python()} launch/export_best.py {place}{choice} --out exported", soft_wrap=True
    )


def search_both(
    space: Path,
    *,
    data: str | Path | None,
    recipes: prepare.Recipes,
    overrides: list[str] | None,
    experiment: Path | None,
    resume: bool,
    dry_run: bool,
    address: str | None,
    submit: bool,
) -> None:
    """The same for the two studies that a `both.Pair` names, at once; then the validation.

    Exits with 130 after Ctrl-C; the verdict of the validation is not an exit code.
    """
    spaces = both.Pair.read(space)
    studies = both.plan(spaces, overrides or (), data, elsewhere=submit)
    console = Console()
    if submit:
        sent = [space, *spaces.values()], [*studies.values()], {"data.path": data}
        _submit(*sent, experiment, recipes.artifacts, dry_run, address)
        return
    if dry_run:
        both.show_plans(console, studies)
        return
    named = "-".join(study.name for study in studies.values())
    place = experiment or Path("experiments") / named
    if not resume:
        both.refuse_begun(place, [*studies])
    prepared = {
        name: prepare.fulfil(study, TRAINABLES[name], recipes, console.print)
        for name, study in studies.items()
    }
    ready = {name: each.study for name, each in prepared.items()}

    from spinlock.search.side_by_side import Side, search_side_by_side  # Ray, as above

    sides = [Side(name, study, place / name) for name, study in ready.items()]
    finished = search_side_by_side(sides, resume=resume, address=address)
    for name, each in prepared.items():
        if (place / name / EVENTS).is_file():  # interrupted at once, it may not have begun
            _show(console, each, TRAINABLES[name], read_ledger(place / name), place / name)
    if not finished:
        _interrupted(console)
    both.validate_best(place, ready)


def _submit(
    spaces: Sequence[Path],
    studies: Sequence[Study],
    files: Mapping[str, str | Path | None],
    experiment: Path | None,
    artifacts: Path,
    dry_run: bool,
    address: str | None,
) -> None:
    if dry_run:
        raise SearchError("--dry-run is answered here, by the command without --submit.")
    from spinlock.search.submit import submit  # Ray, as above

    given = [located(each) for each in files.values() if each is not None]
    submit(spaces, studies, given, experiment, artifacts, address)


def _show(
    console: Console,
    ready: prepare.Prepared,
    trainable: Trainable,
    ledger: Ledger,
    experiment: Path,
) -> None:
    study = ready.study
    first = parse(trainable.model, study.configuration(study.corner), where=study.name)
    epochs = trainable.reporting(first)[-1]
    summary.show_result(
        console,
        ledger,
        trainable.columns,
        epochs=epochs,
        parts=ready.seconds,
        experiment=experiment,
    )


def _interrupted(console: Console, broken: str | None = None) -> NoReturn:
    again = sys.argv if "--resume" in sys.argv else [*sys.argv, "--resume"]
    command = f"{_python()} {shlex.join(again)}"
    if broken is None:
        console.print(f"Interrupted. Go on with: {command}", soft_wrap=True)
        raise typer.Exit(130)
    console.print(
        f"Stopped: {broken} Put the cause right, and go on with: {command}",
        soft_wrap=True,
        markup=False,
    )
    raise typer.Exit(1)


def _python() -> str:
    """This interpreter as one would type it: the environment need not be active in the shell."""
    here = Path(sys.executable)
    near = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
    return shlex.quote(str(near))
