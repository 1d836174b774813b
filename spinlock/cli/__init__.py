"""`spinlock ...`: thin commands, one module per subject. Importing a module adds its commands."""

import sys
from importlib import import_module

import typer

from spinlock.cli.root import Overrides, app, run

__all__ = ["COMMANDS", "Overrides", "commands", "main", "run"]

COMMANDS = {
    "bench": ("bench",),
    "data": ("generate", "check"),
    "diagnose": ("diagnose-gradients", "diagnose-alignment"),
    "foreign": ("import-vqvae",),
    "noa": ("train-noa",),
    "pictures": ("plot-vqvae",),
    "search": ("explain", "replay"),
    "service": ("submit", "list", "status", "logs", "stop", "resume", "fetch"),
    "tokens": ("encode-to-tokens", "evaluate-tokens"),
    "train": ("train",),
    "validate": ("validate", "rollout"),
    "vqvae": ("train-vqvae",),
}
"""The commands by the module that adds them, so that a command line imports only its own."""


def commands(command: str | None = None) -> typer.Typer:
    """The command line with this command, and with all of them if none has that name."""
    its_own = [module for module, names in COMMANDS.items() if command in names]
    for module in its_own or COMMANDS:
        import_module(f"spinlock.cli.{module}")
    return app


def main() -> None:
    """The `spinlock` entry point."""
    run(commands(sys.argv[1] if len(sys.argv) > 1 else None))
