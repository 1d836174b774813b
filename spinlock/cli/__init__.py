"""`spinlock ...`: thin commands, one module per subject. Importing a module adds its commands."""

from spinlock.cli import data, diagnose, foreign, noa, pictures, tokens, train, vqvae
from spinlock.cli.root import Overrides, app, run

__all__ = [
    "Overrides",
    "app",
    "data",
    "diagnose",
    "foreign",
    "main",
    "noa",
    "pictures",
    "run",
    "tokens",
    "train",
    "vqvae",
]


def main() -> None:
    """The `spinlock` entry point."""
    run(app)
