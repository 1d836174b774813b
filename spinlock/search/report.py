"""What a person sees of a search: a live table on a terminal, plain lines elsewhere, a summary."""

from collections.abc import Iterable, Mapping, Sequence
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
    Reported,
    Scalar,
    Started,
    State,
    Suggested,
)
from spinlock.search.ledger import Ledger, Trial
from spinlock.search.ranking import leaders, ranked

_COLOURS = {
    State.RUNNING: "cyan",
    State.COMPLETED: "green",
    State.PRUNED: "yellow",
    State.GUARDED: "magenta",
    State.INFEASIBLE: "red",
    State.FAILED: "bold red",
    State.INTERRUPTED: "dim",
}
_SHOWN, _WIDE, _DIGITS = 24, 120, 6  # 0.0123 has six characters


class Progress:
    """Listens to the book and shows the search while it runs."""

    def __init__(self, console: Console, *, columns: Sequence[str], epochs: int) -> None:
        self._console, self._columns, self._epochs = console, columns, epochs
        self._live: Live | None = None

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
            wide = self._console.width >= _WIDE
            self._live.update(
                table(ledger, self._columns, epochs=self._epochs, newest=_SHOWN, wide=wide)
            )
            return
        match event:
            case Suggested():
                line = f"trial {event.trial}: {settings(event.parameters)}"
            case Started():
                again = f", attempt {event.attempt}" if event.attempt > 1 else ""
                line = f"trial {event.trial}: started{again}"
            case Crashed():
                line = f"trial {event.trial}: crashed: {event.reason}"
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
    newest: int | None = None,
    live: bool = True,
    wide: bool = True,
) -> Table:
    """The trials as a table; with `newest`, the best and the latest that fit.

    A star marks the best trial, or the Pareto front. Beside the objectives stand the metrics in
    `columns`. A `wide` table has the sentences of the verdicts, else the rule stands for its
    sentence.
    """
    study = ledger.study
    result = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    result.title = f"{study.name}: {_counts(ledger, live=live)}"
    metrics = _metrics(ledger, columns)
    searched = [key.rpartition(".")[2].replace("lambda", "λ") for key in study.space]
    names = [m.removeprefix("val/").removeprefix("quality/") for m in metrics]
    for name in ["#", *searched, "epoch", *names]:
        lines = name.split("_")
        width = max(_DIGITS, *map(len, lines)) if name != "#" else 3
        result.add_column("\n".join(lines), justify="right", no_wrap=True, min_width=width)
    result.add_column("state", no_wrap=True, overflow="ellipsis")
    best = leaders(ledger)
    for trial in _chosen(ledger, newest):
        state = trial.state(live=live)
        at = trial.best(study.goals)
        shown = trial.history[at[0] if at else trial.epochs] if trial.history else {}
        verdict = trial.verdict
        why = ""
        if verdict is not None and (wide or state != State.COMPLETED):
            why = f": {verdict.sentence}" if wide else f" {verdict.rule}"
        result.add_row(
            f"{'*' if trial in best else ''}{trial.number}",
            *(value(trial.parameters[key]) for key in study.space),
            f"{trial.epochs}/{epochs}",
            *(f"{shown[name]:.3g}" if name in shown else "" for name in metrics),
            Text(f"{state}{why}", style=_COLOURS[state]),
        )
    return result


def summary(ledger: Ledger, *, epochs: int, top: int = 5) -> list[str]:
    """The search in lines: the best, the next best, who was stopped by what, what it cost.

    With several objectives the whole Pareto front stands in place of the best.
    """
    study, lines = ledger.study, list[str]()
    several = bool(study.objectives)
    for place, trial in enumerate(leaders(ledger) if several else ranked(ledger)[:top]):
        at = trial.best(study.goals)
        if at is not None:
            name = "front" if several else "best " if place == 0 else f"{place + 1}.   "
            scored = ", ".join(
                f"{goal.metric} {score:.4g}" for goal, score in zip(study.goals, at[1], strict=True)
            )
            lines.append(
                f"{name} trial {trial.number}: {scored} at epoch {at[0]} "
                f"with {settings(trial.parameters)}"
            )
    if not lines:
        lines.append("best  none: no trial has a finite epoch")
    lines.append(f"trials  {_counts(ledger, live=False)}")
    rules: dict[str, int] = {}
    for trial in ledger.trials.values():
        if trial.verdict is not None and trial.state() != State.COMPLETED:
            rules[trial.verdict.rule] = rules.get(trial.verdict.rule, 0) + 1
    stopped = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
    lines.append(f"stopped  {stopped or 'none'}")
    spent, full = sum(t.epochs for t in ledger.trials.values()), epochs * len(ledger.trials)
    share = f" ({100 * spent / full:.0f} %)" if full else ""
    lines.append(
        f"epochs  {spent} of the {full} that all of these trials in full would take{share}"
    )
    lines.append(f"time  {_times(ledger)}")
    return lines


def settings(parameters: dict[str, Scalar]) -> str:
    """Searched settings in one line."""
    return ", ".join(f"{key} {value(setting)}" for key, setting in parameters.items())


def value(setting: Scalar) -> str:
    """One setting, with as many digits as a reader compares."""
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def _metrics(ledger: Ledger, columns: Sequence[str]) -> list[str]:
    """The objectives and, beside them, `columns`; each once."""
    return list(dict.fromkeys([*(goal.metric for goal in ledger.study.goals), *columns]))


def _times(ledger: Ledger) -> str:
    """Wall time, and over all trials what starting and training took."""
    wall = sum(session.last - session.opened for session in ledger.sessions)
    training, starting = 0.0, 0.0
    for trial in ledger.trials.values():
        seconds = [metrics.get("seconds", 0.0) for metrics in trial.history.values()]
        training += sum(seconds)
        if trial.started is not None and trial.reported is not None and seconds:
            starting += max(0.0, trial.reported - trial.started - seconds[0])
    sessions = len(ledger.sessions)
    return (
        f"{wall:.1f} s in {sessions} session{'s' if sessions > 1 else ''}; summed over trials "
        f"{training:.1f} s of training and {starting:.1f} s from start to first batch"
    )


def _counts(ledger: Ledger, *, live: bool) -> str:
    counts: dict[str, int] = {}
    for trial in ledger.trials.values():
        state = trial.state(live=live).lower()
        counts[state] = counts.get(state, 0) + 1
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{len(ledger.trials)} of {ledger.study.trials} begun ({parts or 'none yet'})"


def _chosen(ledger: Ledger, newest: int | None) -> Iterable[Trial]:
    trials: list[Any] = list(ledger.trials.values())
    if newest is None or len(trials) <= newest:
        return trials
    kept = {t.number for t in ranked(ledger)[:3]} | {t.number for t in ledger.unfinished}
    for trial in reversed(trials):
        if len(kept) >= newest:
            break
        kept.add(trial.number)
    return [t for t in trials if t.number in kept]


def show_result(
    console: Console,
    ledger: Ledger,
    columns: Sequence[str],
    *,
    epochs: int,
    parts: Mapping[str, float],
) -> None:
    """Print the final table, the summary, and how the time was spent; `parts` came before."""
    console.print(table(ledger, columns, epochs=epochs, live=False, wide=False))
    for trial in ledger.trials.values():
        if trial.verdict is not None and trial.state() != State.COMPLETED:
            line = f"trial {trial.number}: {trial.verdict.sentence}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in summary(ledger, epochs=epochs):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if parts:
        shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        console.print(f"before  {shown}", highlight=False)
