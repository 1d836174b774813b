"""Commands that examine a trained NOA, or one whose training goes wrong."""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli.root import app
from spinlock.data import open_dataset
from spinlock.evaluation import alignment_tables, gradient_tables
from spinlock.evaluation.alignment import diagnose_alignment
from spinlock.evaluation.gradient_fix import commands, mended, write_recipe
from spinlock.evaluation.gradients import diagnose
from spinlock.evaluation.output import show, write
from spinlock.evaluation.probe import probe
from spinlock.evaluation.subject import load_subject
from spinlock.evaluation.verdict import Status
from spinlock.progress import counted

Json = Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")]
Picture = Annotated[Path | None, typer.Option(help="Also draw them into this PNG file.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if the verdict is FAIL.")]


@app.command("diagnose-gradients")
def diagnose_gradients(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint of a NOA, or its artifact.")],
    dataset: Annotated[
        Path | None, typer.Option(help="Data to measure on; else what it was trained on.")
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the rollout; else those of its training.")
    ] = None,
    bptt_window: Annotated[
        int | None, typer.Option(min=1, help="The window; else that of its training.")
    ] = None,
    n_samples: Annotated[int, typer.Option(min=1, help="Trajectories to measure on.")] = 4,
    synthetic: Annotated[
        bool,
        typer.Option("--synthetic", help="Random fields and targets that stand still: any steps."),
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="Where to write the mended training, if it needs mending.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every module's statistics.")] = False,
    out: Json = None,
    picture: Picture = None,
    strict: Strict = False,
) -> None:
    """Find out why gradients are NaN or infinite, from which window on, and what to do."""
    data = None if dataset is None else open_dataset(dataset)
    subject = load_subject(checkpoint, data)
    report = diagnose(
        subject,
        probe(
            subject,
            data,
            timesteps=timesteps,
            window=bptt_window,
            samples=n_samples,
            synthetic=synthetic,
        ),
    )
    fixes: tuple[str, ...] = ()
    if report.fix is not None:
        wanted = mended(subject.training, report.timesteps, report.fix)
        if recipe is not None:
            write_recipe(recipe, wanted)
        fixes = commands(subject.training, wanted, recipe)
    show(gradient_tables.tables(report, fixes, whole=every))
    if out is not None:
        write(out, {**report.document(), "commands": fixes})
    if picture is not None:
        from spinlock.evaluation.gradient_picture import draw  # a tenth of every command's start

        draw(report, picture)
    leave(report.verdict, strict)


@app.command("diagnose-alignment")
def diagnose_noa_alignment(
    noa: Annotated[Path, typer.Option(help="The artifact of a trained NOA, or a checkpoint.")],
    vqvae: Annotated[Path, typer.Option(help="Directory of a trained tokenizer.")],
    dataset: Annotated[Path, typer.Option(help="Trajectories to compare with.")],
    n_samples: Annotated[int, typer.Option(min=2, help="At most so many trajectories.")] = 100,
    out: Json = None,
    picture: Picture = None,
    strict: Strict = False,
) -> None:
    """Say how well a trained NOA is aligned with a tokenizer, on operators it has not seen."""
    with counted("rollouts", "rollouts") as progress:
        report = diagnose_alignment(noa, vqvae, dataset, samples=n_samples, progress=progress)
    show(alignment_tables.tables(report))
    if out is not None:
        write(out, report.document())
    if picture is not None:
        from spinlock.evaluation.alignment_picture import draw  # as above

        draw(report, picture)
    leave(report.verdict, strict)


def leave(found: Status, strict: bool) -> None:
    """With 1 on FAIL, if so asked."""
    if strict and found is Status.FAIL:
        raise typer.Exit(1)
