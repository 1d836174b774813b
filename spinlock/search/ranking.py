"""Which trials of a search are best: those that completed, or if none did, any healthy one."""

from spinlock.search.events import State
from spinlock.search.ledger import Ledger, Trial
from spinlock.search.pareto import fronts


def layers(ledger: Ledger) -> list[list[Trial]]:
    """Trials from the best on; those on one layer are equals (with several objectives: a front).

    A trial counts by the scores of the epoch that it stands for.
    """
    goals = ledger.study.goals
    scored = {t.number: at[1] for t in ledger.trials.values() if (at := t.best(goals)) is not None}
    states = {number: ledger.trials[number].state() for number in scored}
    done = [number for number, state in states.items() if state == State.COMPLETED]
    alive = (State.PRUNED, State.PAUSED, State.RUNNING, State.PREEMPTED)
    healthy = [number for number, state in states.items() if state in alive]
    points = {number: scored[number] for number in done or healthy}
    return [[ledger.trials[number] for number in layer] for layer in fronts(points, goals)]


def ranked(ledger: Ledger) -> list[Trial]:
    """All of them in one row."""
    return [trial for layer in layers(ledger) for trial in layer]


def leaders(ledger: Ledger) -> list[Trial]:
    """The Pareto front; with one objective the best trial, the first of equals."""
    first = next(iter(layers(ledger)), [])
    return first if ledger.study.objectives else first[:1]
