"""Where a report goes: tables on a terminal, numbers in a file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from spinlock.files import atomic_file


def show(parts: Iterable[RenderableType]) -> None:
    """Tables to the terminal's width; a sentence or a command is one line, whatever its width."""
    console = Console(highlight=False)
    for part in parts:
        console.print(part, soft_wrap=not isinstance(part, Table))


def write(out: Path, document: dict[str, Any]) -> None:
    """As JSON. Raises SpinlockError where it cannot be written."""
    with atomic_file(out) as beside:
        beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
