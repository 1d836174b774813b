"""A search in lines once it has ended: the best, who was stopped by what, what it cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from spinlock.search.checkpoints import size, trial_directory
from spinlock.search.events import State
from spinlock.search.front import grown
from spinlock.search.ledger import Ledger
from spinlock.search.pareto import Scores
from spinlock.search.ranking import leaders, ranked
from spinlock.search.report import counts, settings, table
from spinlock.search.space import Study


def show_result(
    console: Console,
    ledger: Ledger,
    columns: Sequence[str],
    *,
    epochs: int,
    parts: Mapping[str, float],
    experiment: Path | None = None,
) -> None:
    """Print the final table, the summary, what the checkpoints in `experiment` take, and how the
    time was spent; `parts` came before.
    """
    console.print(table(ledger, columns, epochs=epochs, width=console.width, live=False))
    for trial in ledger.trials.values():
        if trial.verdict is not None and trial.state() != State.COMPLETED:
            line = f"trial {trial.number}: {trial.verdict.sentence}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in summary(ledger, epochs=epochs):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if experiment is not None:
        console.print(disk(ledger, experiment), highlight=False, soft_wrap=True)
    if parts:
        shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        console.print(f"before  {shown}", highlight=False)


def summary(ledger: Ledger, *, epochs: int, top: int = 5) -> list[str]:
    """The search in lines: the best, the next best, who was stopped by what, what it cost.

    With several objectives the whole Pareto front stands in place of the best. Trial 0 has the
    first start point: what the best is held against.
    """
    study, lines = ledger.study, list[str]()
    several = bool(study.objectives)
    for place, trial in enumerate(leaders(ledger) if several else ranked(ledger)[:top]):
        at = trial.best(study.goals)
        if at is not None:
            name = "front" if several else "best " if place == 0 else f"{place + 1}.   "
            lines.append(
                f"{name} trial {trial.number}: {_scored(study, at[1])} at epoch {at[0]} "
                f"with {settings(trial.parameters)}"
            )
    if not lines:
        kept = f" that keeps {' and '.join(map(str, study.limits))}" if study.limits else ""
        lines.append(f"best  none: no trial has a finite epoch{kept}")
    first = ledger.trials.get(0)
    at = None if first is None else first.best(study.goals)
    if first is not None and study.start and at is not None:
        state = first.state(live=False)
        lines.append(f"start trial 0: {_scored(study, at[1])} at epoch {at[0]}, {state}")
    lines.append(f"trials  {counts(ledger, live=False)}")
    waiting = len(ledger.unfinished)
    if ledger.spent is not None and (waiting or len(ledger.trials) < study.trials):
        waits = f"; {waiting} of the trials wait at a rung for more" if waiting else ""
        lines.append(f"budget  spent: {ledger.spent}{waits}. --resume with more of it goes on")
    rules: dict[str, int] = {}
    for trial in ledger.trials.values():
        if trial.verdict is not None and trial.state() != State.COMPLETED:
            rules[trial.verdict.rule] = rules.get(trial.verdict.rule, 0) + 1
    stopped = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
    lines.append(f"stopped  {stopped or 'none'}")
    lines += audit(ledger)
    if several:
        lines += grown(ledger)
    spent, full = ledger.epochs, epochs * len(ledger.trials)
    share = f" ({100 * spent / full:.0f} %)" if full else ""
    lines.append(
        f"epochs  {spent} of the {full} that all of these trials in full would take{share}"
    )
    lines.append(f"time  {_times(ledger)}")
    return lines


def disk(ledger: Ledger, experiment: Path) -> str:
    """What the checkpoints of the search take, in one line."""
    taken = {number: size(trial_directory(experiment, number)) for number in ledger.trials}
    if not any(taken.values()):
        return "disk  no checkpoints"
    most = max(taken, key=lambda number: taken[number])
    return (
        f"disk  {decimal(sum(taken.values()))} of checkpoints, the most by trial {most}: "
        f"{decimal(taken[most])}"
    )


def audit(ledger: Ledger) -> list[str]:
    """How the trials ended that were spared a stop: wrong is one that would have been the best."""
    spared = [t for t in ledger.trials.values() if t.spared is not None and t.verdict is not None]
    if not spared:
        return []
    order = [trial.number for trial in ranked(ledger)]
    first = next((n for n in order if ledger.trials[n].spared is None), None)
    better = order[: order.index(first)] if first is not None else order
    wrong = [trial.number for trial in spared if trial.number in better]
    lines = [
        f"audit  {len(spared)} stopped trials ran on, and {len(wrong)} of them "
        f"({len(wrong) / len(spared):.0%}) would have been the best"
    ]
    for trial in spared:
        ended = (
            f"number {order.index(trial.number) + 1} of {len(order)}"
            if trial.number in order
            else str(trial.state())
        )
        told = trial.spared.sentence if trial.spared is not None else ""
        lines.append(f"       trial {trial.number} ended as {ended}, spared: {told}")
    return lines


def _scored(study: Study, scores: Scores) -> str:
    return ", ".join(
        f"{goal.metric} {score:.4g}" for goal, score in zip(study.goals, scores, strict=True)
    )


def _times(ledger: Ledger) -> str:
    """Wall time, and over all trials what starting and training took."""
    wall = sum(session.last - session.opened for session in ledger.sessions)
    trials = ledger.trials.values()
    training = sum(row.get("seconds", 0.0) for trial in trials for row in trial.history.values())
    starting = sum(trial.starting or 0.0 for trial in trials)
    sessions = len(ledger.sessions)
    return (
        f"{wall:.1f} s in {sessions} session{'s' if sessions > 1 else ''}; summed over trials "
        f"{training:.1f} s of training and {starting:.1f} s from start to first batch"
    )
