"""Commands that draw."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spinlock.cli.root import app
from spinlock.evaluation.run import load_run
from spinlock.progress import counted


@app.command("plot-vqvae")
def plot_vqvae(
    run_dir: Annotated[
        Path, typer.Argument(help="What train-vqvae has written, or best_model in it.")
    ],
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

    run = load_run(run_dir)
    place = run.path / "pictures" if out is None else out
    with counted("trajectories", "features") as progress:
        missing = draw_run(run, place, dataset=dataset, embedding=embedding, progress=progress)
    for reason in missing:
        print(reason, file=sys.stderr)
    print(place / "index.html")
