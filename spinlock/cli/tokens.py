"""Commands about tokens: made of a dataset, and judged."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spinlock.cli.root import app
from spinlock.evaluation.judge import judge
from spinlock.evaluation.output import write
from spinlock.evaluation.tables import tables
from spinlock.evaluation.tokens import Tokens, encode_dataset
from spinlock.progress import counted


@app.command()
def encode_to_tokens(
    dataset: Annotated[Path, typer.Option(help="An HDF5 file of any known layout.")],
    vqvae_model: Annotated[Path, typer.Option(help="Directory of a trained tokenizer.")],
    output: Annotated[Path, typer.Option(help="The HDF5 file to write; must not exist.")],
    windows: Annotated[
        int, typer.Option(min=1, help="Windows of each trajectory, evenly spread; 1 begins it.")
    ] = 1,
) -> None:
    """Turn every trajectory of a dataset into tokens, in a file that can decode itself."""
    with counted("trajectories", "features") as progress:
        tokens = encode_dataset(dataset, vqvae_model, output, windows=windows, progress=progress)
    samples, books = tokens.codes.shape
    print(f"{samples} samples of {books} tokens each, in {output}")


@app.command()
def evaluate_tokens(
    tokens: Annotated[Path, typer.Argument(help="What encode-to-tokens has written.")],
    dataset: Annotated[Path, typer.Option(help="The file that was encoded.")],
    out: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers to this file.")
    ] = None,
) -> None:
    """Say what tokens cost, what they keep, and how well they tell operators apart."""
    with counted("trajectories", "features") as progress:
        report = judge(Tokens.load(tokens), dataset, progress=progress)
    console = Console()
    for part in tables(report):
        console.print(part)
    if out is not None:
        write(out, report.document())
