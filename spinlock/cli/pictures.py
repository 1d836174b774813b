"""Commands that draw."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spinlock.cli.root import app
from spinlock.evaluation.run import load_run
from spinlock.progress import bar


@app.command("plot-vqvae")
def plot_vqvae(
    run_dir: Annotated[Path, typer.Argument(help="What train-vqvae has written.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for the pictures; RUN_DIR/pictures if not given.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="The run's data, if it has moved.")] = None,
    embedding: Annotated[
        Literal["tsne", "umap"], typer.Option(help="How codes are laid out.")
    ] = "tsne",
) -> None:
    """Draw a tokenizer's training, codebooks and categories: PNG files and one HTML page."""
    from spinlock.evaluation.pictures import draw_run  # a tenth of every command's start

    place = run_dir / "pictures" if out is None else out
    run = load_run(run_dir)
    with bar("trajectories") as progress:
        task = progress.add_task("features", total=None)
        missing = draw_run(
            run,
            place,
            dataset=dataset,
            embedding=embedding,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for reason in missing:
        print(reason, file=sys.stderr)
    print(place / "index.html")
