"""Commands about models that were trained elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from spinlock import artifact
from spinlock.cli.root import app
from spinlock.errors import SpinlockError
from spinlock.files import fingerprint
from spinlock.vqvae.foreign import load_prototype


@app.command()
def import_vqvae(
    checkpoint: Annotated[Path, typer.Argument(help="A best_model.pt of the research prototype.")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write; must not exist.")],
) -> None:
    """Turn a checkpoint of the research prototype into an artifact that is safe to load.

    Nothing in the checkpoint is run. What only training used stays behind: the optimizer, the
    moving averages, the partial decoders and the random encoders before the model.
    """
    if out.exists():
        raise SpinlockError(f"{out}: is there already. Give another --out, or remove it.")
    found = load_prototype(checkpoint)
    found.vqvae.save(
        out,
        found.metrics,
        artifact.provenance(
            source=checkpoint.name, source_fingerprint=fingerprint(checkpoint), recipe=found.recipe
        ),
    )
    config = found.vqvae.config
    print(f"{out}: a VQ-VAE of the research prototype, {config.inputs} inputs")
    for category in config.categories:
        levels = ", ".join(f"{x.num_tokens} x {x.latent_dim}" for x in category.levels)
        print(f"  {category.name}: {len(category.inputs)} inputs; codes x entries {levels}")
    if config.initial is not None:
        print(
            f"  initial fields: {config.initial.channels} channels to {config.initial.outputs} "
            f"inputs, after {config.initial.manual} features"
        )
