"""`spinlock ...`: thin commands, one module per subject. Importing a module adds its commands."""

from spinlock.cli import (
    bench,
    data,
    diagnose,
    foreign,
    noa,
    pictures,
    search,
    service,
    tokens,
    train,
    validate,
    vqvae,
)
from spinlock.cli.root import Overrides, app, run

__all__ = [
    "Overrides",
    "app",
    "bench",
    "data",
    "diagnose",
    "foreign",
    "main",
    "noa",
    "pictures",
    "run",
    "search",
    "service",
    "tokens",
    "train",
    "validate",
    "vqvae",
]


def main() -> None:
    """The `spinlock` entry point."""
    run(app)
