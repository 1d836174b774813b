"""The command line's root, and how every command of the project answers a user's mistake."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from spinlock.errors import SpinlockError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """Neural Operator Agents: data, training, search."""


Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE over the file; may be repeated.")
]


def run(command: Callable[[], object]) -> None:
    """Run a command line; a user's mistake is one message on stderr and exit code 2."""
    try:
        command()
    except SpinlockError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
