"""Search over VQ-VAE settings: python launch/tune_vqvae.py --space search_spaces/vqvae.yaml"""

from pathlib import Path

import typer

from spinlock.cli import Overrides
from spinlock.cli import run as command_line
from spinlock.search import launch
from spinlock.search.prepare import Recipes
from spinlock.search.vqvae import VQVAE

DEFAULT = Path(__file__).parent / "default"


def main(
    space: launch.Space,
    data: launch.Data = None,
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
    """Search; what launch/export_best.py makes of it goes to launch/tune_noa.py --vqvae."""
    launch.search(
        VQVAE(),
        space,
        files={"data.path": data},
        recipes=Recipes(DEFAULT / "dataset-vqvae.yaml", DEFAULT / "tokenizer.yaml", artifacts),
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
