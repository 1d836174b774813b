"""Search a NOA and a tokenizer side by side on one dataset, and validate the best of both:

python launch/tune_both.py --space search_spaces/both.yaml --data FILE
"""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli import run as command_line
from spinlock.search import launch
from spinlock.search.prepare import Recipes

DEFAULT = Path(__file__).parent / "default"

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="noa.KEY=VALUE or vqvae.KEY=VALUE; may be repeated."),
]


def main(
    space: launch.Space,
    data: launch.Data = None,
    experiment: launch.Experiment = None,
    overrides: Overrides = None,
    resume: launch.Resume = False,
    dry_run: launch.DryRun = False,
    address: launch.Address = None,
    submit: launch.Submit = False,
    artifacts: launch.Artifacts = Path("artifacts"),
) -> None:
    """Both at once, neither knows of the other; Ctrl-C leaves both resumable."""
    launch.search_both(
        space,
        data=data,
        recipes=Recipes(DEFAULT / "dataset-vqvae.yaml", DEFAULT / "tokenizer.yaml", artifacts),
        overrides=overrides,
        experiment=experiment,
        resume=resume,
        dry_run=dry_run,
        address=address,
        submit=submit,
    )


if __name__ == "__main__":
    command_line(lambda: typer.run(main))
