"""The project's progress bar: what is done of the whole, time spent and time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def counted(unit: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many of how many are done; the bar appears when it is first called.

    So what is refused before the work begins is one message, without an idle bar above it.
    """
    shown = bar(unit)
    task = shown.add_task(description, total=None)

    def tell(done: int, total: int) -> None:
        shown.start()
        shown.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if shown.live.is_started:
            shown.stop()
