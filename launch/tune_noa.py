"""Search over NOA hyperparameters: python launch/tune_noa.py --space search_spaces/latent.yaml"""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli import Overrides
from spinlock.cli import run as command_line
from spinlock.search import launch
from spinlock.search.noa import NOA
from spinlock.search.prepare import Recipes

DEFAULT = Path(__file__).parent / "default"


def main(
    space: launch.Space,
    data: launch.Data = None,
    vqvae: Annotated[
        str | None, typer.Option(metavar="PATH|URI", help="Tokenizer; trained if not given.")
    ] = None,
    experiment: launch.Experiment = None,
    trials: launch.Trials = None,
    warm_start: launch.WarmStart = None,
    overrides: Overrides = None,
    resume: launch.Resume = False,
    dry_run: launch.DryRun = False,
    address: launch.Address = None,
    submit: launch.Submit = False,
    artifacts: launch.Artifacts = Path("artifacts"),
) -> None:
    """Search; Ctrl-C leaves it resumable. The result goes to launch/export_best.py."""
    launch.search(
        NOA(),
        space,
        files={"data.path": data, "tokenizer": vqvae},
        recipes=Recipes(DEFAULT / "dataset.yaml", DEFAULT / "tokenizer.yaml", artifacts),
        overrides=overrides,
        trials=trials,
        warm_start=warm_start,
        experiment=experiment,
        resume=resume,
        dry_run=dry_run,
        address=address,
        submit=submit,
    )


if __name__ == "__main__":
    command_line(lambda: typer.run(main))
