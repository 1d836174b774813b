"""The project's progress bar: what is done of the whole, time spent and time left."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def bar(unit: str, width: int = 40) -> Progress:
    """A bar on stderr that counts `unit`; drawn only on a terminal, else once at its end.

    `width` is that of the bar alone; a long description leaves less of 80 columns for it.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(width),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
