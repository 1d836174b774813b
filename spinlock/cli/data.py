"""Commands about data files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spinlock import config
from spinlock.cli.root import Overrides, app
from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig
from spinlock.data.generate import generate as generate_dataset
from spinlock.progress import counted


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="The HDF5 file to write; must not exist.")],
    recipe: Annotated[
        Path, typer.Option("--config", help="YAML: operators, seed, grid, frames, domain.")
    ],
    overrides: Overrides = None,
) -> None:
    """Make a dataset of ground-truth trajectories. Interrupted, the same command goes on."""
    wanted = config.load(GenerateConfig, recipe, overrides or ())
    with counted("operators", out.name) as progress:
        generate_dataset(wanted, out, progress=lambda made: progress(made.done, wanted.operators))
    describe(out)


@app.command()
def check(path: Annotated[Path, typer.Argument(help="An HDF5 file of any known layout.")]) -> None:
    """Read a whole data file: what is in it, and whether every number is finite."""
    describe(path)
    print(open_dataset(path).verify())


def describe(path: Path) -> None:
    """Print what a data file holds."""
    info = open_dataset(path).info
    table = Table(show_header=False, box=None, title=str(path), title_justify="left")
    for key, value in {
        "layout": info.layout,
        "domain": info.domain,
        "operators x realizations": f"{info.operators} x {info.realizations}",
        "frames": info.frames or "none stored",
        "channels": ", ".join(info.channel_names),
        "grid": f"{info.height} x {info.width}",
        "parameters": ", ".join(info.parameter_names) or "none",
        "features": ", ".join(info.features) or "none stored",
        "fingerprint": info.fingerprint,
    }.items():
        table.add_row(key, str(value))
    Console().print(table)
