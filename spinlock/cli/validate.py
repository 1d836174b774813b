"""Commands about a NOA as what it is for: in place of the ground truth."""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli.data import describe
from spinlock.cli.diagnose import Json, Strict, leave
from spinlock.cli.root import app
from spinlock.evaluation import validation_tables
from spinlock.evaluation.output import show, write
from spinlock.evaluation.rollout_file import write_rollouts
from spinlock.evaluation.validation import validate
from spinlock.evaluation.validation_judge import MAX_RATIO
from spinlock.progress import counted

Noa = Annotated[
    Path,
    typer.Option(
        "--noa", "--noa-checkpoint", help="The artifact of a trained NOA, or a checkpoint."
    ),
]


@app.command("validate")
def validate_noa(
    noa: Noa,
    vqvae: Annotated[
        Path, typer.Option("--vqvae", "--vqvae-path", help="Directory of a trained tokenizer.")
    ],
    dataset: Annotated[Path, typer.Option(help="Trajectories to compare with.")],
    n_samples: Annotated[int, typer.Option(min=2, help="At most so many trajectories.")] = 100,
    max_ratio: Annotated[
        float,
        typer.Option(min=0.0, help="Of reconstruction errors, rollouts over truth: more is FAIL."),
    ] = MAX_RATIO,
    out: Json = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Also draw PNG files and one HTML page in this directory.")
    ] = None,
    strict: Strict = False,
) -> None:
    """Say whether a NOA and a tokenizer fit that were trained apart on ground truth."""
    with counted("rollouts", "rollouts") as progress:
        report = validate(
            noa, vqvae, dataset, samples=n_samples, max_ratio=max_ratio, progress=progress
        )
    show(validation_tables.tables(report))
    if out is not None:
        write(out, report.document())
    if pictures is not None:
        from spinlock.evaluation.validation_picture import draw  # a tenth of every command's start

        print(draw(report, pictures))
    leave(report.verdict, strict)


@app.command("rollout")
def write_noa_rollouts(
    noa: Noa,
    dataset: Annotated[Path, typer.Option(help="Where initial fields and operators are from.")],
    output: Annotated[Path, typer.Option(help="The HDF5 file to write; must not exist.")],
    n_samples: Annotated[
        int | None, typer.Option(min=1, help="The first so many operators; else all.")
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a rollout; else those of the file.")
    ] = None,
) -> None:
    """Write a NOA's rollouts as a dataset, in place of the ground truth that they imitate."""
    with counted("rollouts", output.name) as progress:
        write_rollouts(
            noa, dataset, output, samples=n_samples, timesteps=timesteps, progress=progress
        )
    describe(output)
