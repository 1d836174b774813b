"""What a person sees of a search while it runs: a table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spinlock.search.events import (
    Crashed,
    Ended,
    Event,
    Preempted,
    Reported,
    Started,
    State,
    Suggested,
)
from spinlock.search.ledger import Ledger
from spinlock.search.parameter import Scalar
from spinlock.search.ranking import leaders, ranked
from spinlock.search.trial import Trial

_COLOURS = {
    State.RUNNING: "cyan",
    State.COMPLETED: "green",
    State.PREEMPTED: "blue",
    State.PAUSED: "blue",
    State.PRUNED: "yellow",
    State.GUARDED: "magenta",
    State.INFEASIBLE: "red",
    State.FAILED: "bold red",
    State.INTERRUPTED: "dim",
}
_SLOW = 0.05  # seconds
_SHOWN, _WIDE, _DIGITS = 24, 120, 6  # 0.0123 has six characters
_STATE = len("GUARDED codebook_collapse")


class Progress:
    """Listens to the book and shows the search while it runs."""

    def __init__(self, console: Console, *, columns: Sequence[str], epochs: int) -> None:
        self._console, self._columns, self._epochs = console, columns, epochs
        self._live: Live | None = None
        self._next = 0.0  # when the table is drawn again at the earliest

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event, ledger: Ledger) -> None:
        """Show what has changed."""
        if self._live is not None:
            begun = time.monotonic()
            if begun < self._next:
                return
            width = self._console.width
            trials = table(
                ledger,
                self._columns,
                epochs=self._epochs,
                width=width,
                newest=_SHOWN,
                sentences=width >= _WIDE,
            )
            self._live.update(trials)
            # Of thousands of trials a table takes longer than an event: a tenth of the time for it.
            spent = time.monotonic() - begun
            self._next = begun + 10 * spent if spent > _SLOW else 0.0
            return
        match event:
            case Suggested():
                line = f"trial {event.trial}: {settings(event.parameters)}"
            case Started():
                again = f", attempt {event.attempt}" if event.attempt > 1 else ""
                line = f"trial {event.trial}: started{again}"
            case Crashed():
                line = f"trial {event.trial}: crashed: {event.reason}"
            case Preempted():
                line = f"trial {event.trial}: preempted: {event.reason}"
            case Reported():
                shown = [m for m in _metrics(ledger, self._columns) if m in event.metrics]
                values = " ".join(f"{m} {event.metrics[m]:.4g}" for m in shown)
                line = f"trial {event.trial}: epoch {event.epoch}/{self._epochs} {values}"
                if event.verdict is not None:
                    line += f" {event.verdict.state}: {event.verdict.sentence}"
            case Ended():
                line = f"trial {event.trial}: {event.verdict.state}: {event.verdict.sentence}"
            case _:
                return
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def table(
    ledger: Ledger,
    columns: Sequence[str],
    *,
    epochs: int,
    width: int,
    newest: int | None = None,
    live: bool = True,
    sentences: bool = False,
) -> Table:
    """The trials as a table of so many characters; with `newest`, the best and the latest.

    A star marks the best trial, or the Pareto front. Beside the objectives stand the metrics in
    `columns`. Searched settings that have no room are left out, the last first; a caption says
    so. Verdicts are told by their rule, or by their `sentences`.
    """
    study = ledger.study
    result = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    result.title = f"{study.name}: {counts(ledger, live=live)}"
    metrics = _metrics(ledger, columns)
    searched = {key: key.rpartition(".")[2].replace("lambda", "λ") for key in study.space}
    names = ["epoch", *(m.removeprefix("val/").removeprefix("quality/") for m in metrics)]
    room = width - _STATE - sum(map(_width, ["#", *names]))
    fitting: list[str] = []
    for key, name in searched.items():
        room -= _width(name)
        if room < 0:
            result.caption = "More settings are in the summary and in trials.parquet."
            break
        fitting.append(key)
    for name in ["#", *(searched[key] for key in fitting), *names]:
        head = "\n".join(name.split("_"))
        result.add_column(head, justify="right", no_wrap=True, min_width=_width(name) - 1)
    result.add_column("state", no_wrap=True, overflow="ellipsis")
    best = leaders(ledger)
    for trial in _chosen(ledger, newest):
        state = trial.state(live=live)
        at = trial.best(study.goals)
        shown = trial.history[at[0] if at else trial.epochs] if trial.history else {}
        verdict = trial.verdict
        why = ""
        if verdict is not None and (sentences or state != State.COMPLETED):
            why = f": {verdict.sentence}" if sentences else f" {verdict.rule}"
        result.add_row(
            f"{'*' if trial in best else ''}{trial.number}",
            *(value(trial.parameters[k]) if k in trial.parameters else "" for k in fitting),
            f"{trial.epochs}/{epochs}",
            *(f"{shown[name]:.3g}" if name in shown else "" for name in metrics),
            Text(f"{state}{why}", style=_COLOURS[state]),
        )
    return result


def _width(name: str) -> int:
    """Characters of a column with this name, and one between it and the next."""
    return 1 + (3 if name == "#" else max(_DIGITS, *map(len, name.split("_"))))


def settings(parameters: dict[str, Scalar]) -> str:
    """Searched settings in one line."""
    return ", ".join(f"{key} {value(setting)}" for key, setting in parameters.items())


def value(setting: Scalar) -> str:
    """One setting, with as many digits as a reader compares."""
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def _metrics(ledger: Ledger, columns: Sequence[str]) -> list[str]:
    """The objectives and, beside them, `columns`; each once."""
    return list(dict.fromkeys([*(goal.metric for goal in ledger.study.goals), *columns]))


def counts(ledger: Ledger, *, live: bool) -> str:
    """How many trials have begun, and how they stand."""
    found: dict[str, int] = {}
    for trial in ledger.trials.values():
        state = trial.state(live=live).lower()
        found[state] = found.get(state, 0) + 1
    parts = ", ".join(f"{count} {state}" for state, count in found.items())
    return f"{len(ledger.trials)} of {ledger.study.trials} begun ({parts or 'none yet'})"


def _chosen(ledger: Ledger, newest: int | None) -> Iterable[Trial]:
    trials: list[Any] = list(ledger.trials.values())
    if newest is None or len(trials) <= newest:
        return trials
    kept = {t.number for t in ranked(ledger)[:3]} | {t.number for t in ledger.under_way}
    for trial in reversed(trials):
        if len(kept) >= newest:
            break
        kept.add(trial.number)
    return [t for t in trials if t.number in kept]
