"""Search over NOA hyperparameters: python launch/tune_noa.py --space search_spaces/latent.yaml"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spinlock.cli import Overrides
from spinlock.cli import run as command_line
from spinlock.search import prepare, report
from spinlock.search.noa import NOA

HERE = Path(__file__).parent


def main(
    space: Annotated[Path, typer.Option(help="The study: what is searched, and how.")],
    data: Annotated[Path | None, typer.Option(help="Dataset; made here if not given.")] = None,
    vqvae: Annotated[Path | None, typer.Option(help="Tokenizer; trained if not given.")] = None,
    experiment: Annotated[Path | None, typer.Option(help="Default: experiments/<name>.")] = None,
    trials: Annotated[int | None, typer.Option(help="In place of the study's number.")] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and train nothing.")] = False,
    address: Annotated[str | None, typer.Option(help="A running Ray; ours if not given.")] = None,
    artifacts: Annotated[Path, typer.Option(help="Where it is kept.")] = Path("artifacts"),
) -> None:
    """Search; Ctrl-C leaves it resumable. The result goes to launch/export_best.py."""
    changes = [*(overrides or ()), *([f"trials={trials}"] if trials is not None else ())]
    study = prepare.plan(space, changes, data=data, tokenizer=vqvae)
    console = Console()
    if dry_run:
        report.show_plan(console, study, NOA())
        return
    recipes = prepare.Recipes(
        HERE / "default" / "dataset.yaml", HERE / "default" / "tokenizer.yaml", artifacts
    )
    ready = prepare.fulfil(study, recipes, console.print)
    place = experiment or Path("experiments") / study.name

    from spinlock.search.study import run  # Ray starts loading here, after all can be answered

    result = run(ready.study, NOA(), place, resume=resume, address=address, console=console)
    report.show_result(console, result.ledger, epochs=ready.epochs, parts=ready.seconds)
    if not result.finished:
        again = sys.argv if "--resume" in sys.argv else [*sys.argv, "--resume"]
        console.print(f"Interrupted. Go on with: python {shlex.join(again)}", soft_wrap=True)
        raise typer.Exit(130)
    if not report.ranked(result.ledger):
        raise typer.Exit(1)
    console.print(f"Next: python launch/export_best.py {place} --out exported", soft_wrap=True)


if __name__ == "__main__":
    command_line(lambda: typer.run(main))
