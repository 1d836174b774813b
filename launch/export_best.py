"""Export a search's best model: python launch/export_best.py EXPERIMENT --out DIR"""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli import run as command_line
from spinlock.search import results
from spinlock.search.report import settings
from spinlock.search.trainables import TRAINABLES


def main(
    experiment: Annotated[Path, typer.Argument(help="Directory of a search.")],
    out: Annotated[Path, typer.Option(help="Directory for the artifact.")],
    trial: Annotated[int | None, typer.Option(help="This trial, not the best.")] = None,
) -> None:
    """Write the best epoch as an artifact, and evaluate it again in a fresh process."""
    exported = results.export(experiment, out, TRAINABLES, trial=trial)
    best = exported.best
    print(f"Trial {best.trial}, epoch {best.epoch}: {settings(best.parameters)}")
    for name, value in exported.recorded.items():
        print(f"  {name}: {value:.8g} recorded, {exported.measured[name]:.8g} evaluated again")
    print(f"Reproduced to {exported.difference:.1e}; the artifact is {out}.")


if __name__ == "__main__":
    command_line(lambda: typer.run(main))
