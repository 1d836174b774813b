"""A search that another process runs, shown here: once, or as it goes on."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spinlock.config import parse
from spinlock.errors import SearchError
from spinlock.search.alone import deserted
from spinlock.search.events import Event, EventReader, SessionClosed
from spinlock.search.ledger import EVENTS, Ledger, fold
from spinlock.search.ranking import leaders
from spinlock.search.report import Progress, table, value

_LOOK_SECONDS = 0.5


def show(console: Console, ledger: Ledger) -> None:
    """The table of a search as it stands."""
    columns, epochs = described(ledger)
    console.print(table(ledger, columns, epochs=epochs, width=console.width, live=ledger.live))


def show_live(console: Console, batches: Iterable[list[Event]]) -> Ledger:
    """The live table on a terminal, plain lines elsewhere, until no events are left."""
    ledger, waiting = Ledger(), iter(batches)
    first = next(waiting, list[Event]())
    if not first:
        return ledger
    columns, epochs = described(fold(first[:1]))
    with Progress(console, columns=columns, epochs=epochs) as progress:
        for events in chain([first], waiting):
            for event in events:
                ledger.apply(event)
                if not console.is_terminal:
                    progress(event, ledger)
            if console.is_terminal:  # a table for each event of a long log would take minutes
                progress(events[-1], ledger)
    return ledger


def described(ledger: Ledger) -> tuple[Sequence[str], int]:
    """The metrics that a table shows beside the objectives, and the epochs of a whole run."""
    from spinlock.search.trainables import TRAINABLES  # and torch, most of a listing's start

    study, opened = ledger.study, ledger.opened
    assert opened is not None, "or it would have no study"
    if opened.trainable not in TRAINABLES:
        raise SearchError(
            f"{study.name}: searches a {opened.trainable}, which this version of Spinlock does not "
            f"know. It knows {' and '.join(TRAINABLES)}."
        )
    trainable = TRAINABLES[opened.trainable]
    first = parse(trainable.model, study.configuration(study.corner), where=study.name)
    return trainable.columns, trainable.reporting(first)[-1]


def follow_here(experiment: Path) -> Iterator[list[Event]]:
    """The events of a log that this machine sees, as they come, until its session is closed.

    Ends also where the session's driver was killed.
    """
    reader, taken = EventReader(str(experiment / EVENTS)), 0
    while True:
        gone = deserted(experiment)
        with (experiment / EVENTS).open("rb") as stream:
            stream.seek(taken)
            lines = [line for line in stream if line.endswith(b"\n")]
        taken += sum(map(len, lines))
        events = [reader.event(line) for line in lines]
        if events:
            yield events
        if gone or (events and isinstance(events[-1], SessionClosed)):
            return
        time.sleep(_LOOK_SECONDS)


def standing(ledger: Ledger) -> list[str]:
    """Trials, epochs and the best so far, as cells of a list."""
    goals, best = ledger.study.goals, leaders(ledger)
    at = best[0].best(goals) if best else None
    if at is None:
        told = ""
    elif len(goals) > 1:
        told = f"{len(best)} on the front"
    else:
        told = f"{goals[0].metric} {value(at[1][0])} (trial {best[0].number})"
    return [f"{len(ledger.trials)}/{ledger.study.trials}", str(ledger.epochs), told]


def age(seconds: float) -> str:
    """A time span as a person says it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def listing(rows: Iterable[Sequence[str]]) -> Table:
    """Searches, a row each."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("study", "state", "trials", "epochs", "best so far", "age", "experiment", "job"):
        result.add_column(name, no_wrap=True)
    for row in rows:
        result.add_row(*row)
    return result
