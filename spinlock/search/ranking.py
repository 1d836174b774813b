"""Which trials of a search are best: those that completed, or if none did, any healthy one."""

from collections.abc import Iterator, Sequence
from itertools import islice

from spinlock.search.events import State
from spinlock.search.ledger import Ledger
from spinlock.search.pareto import Scores, fronts
from spinlock.search.space import Objective
from spinlock.search.trial import Trial

TRIED_FIRST = 5  # earlier trials that show what they are worth here


def layers(ledger: Ledger) -> list[list[Trial]]:
    """Trials from the best on; those on one layer are equals (with several objectives: a front).

    A trial counts by the scores of the epoch that it stands for.
    """
    trials = [*ledger.trials.values()]
    points = _scores(trials, ledger.study.goals)
    return [[trials[i] for i in layer] for layer in fronts(points, ledger.study.goals)]


def tried_first(ledger: Ledger) -> list[Trial]:
    """The best earlier trials, whose points come after the start points unless they are of them."""
    start = ledger.study.start
    others = (prior for prior in best_priors(ledger) if prior.parameters not in start)
    return [*islice(others, TRIED_FIRST)]


def best_priors(ledger: Ledger) -> Iterator[Trial]:
    """The ranked trials of the earlier searches, the best first; of one point the best alone.

    With several objectives the best in the first, of the others the best in the second, and so on.
    """
    goals, points = ledger.study.goals, _scores(ledger.priors, ledger.study.goals)
    costs = {
        i: tuple(goal.cost(score) for goal, score in zip(goals, scores, strict=True))
        for i, scores in points.items()
    }
    found = list[Trial]()
    for i in sorted(costs, key=costs.__getitem__):
        if all(ledger.priors[i].parameters != better.parameters for better in found):
            found.append(ledger.priors[i])
            yield ledger.priors[i]


def _scores(trials: Sequence[Trial], goals: Sequence[Objective]) -> dict[int, Scores]:
    """By place the scores of those that are ranked: the completed, or if none is the healthy."""
    scored = {i: at[1] for i, trial in enumerate(trials) if (at := trial.best(goals)) is not None}
    states = {i: trials[i].state() for i in scored}
    done = [i for i, state in states.items() if state == State.COMPLETED]
    alive = (State.PRUNED, State.PAUSED, State.RUNNING, State.PREEMPTED)
    healthy = [i for i, state in states.items() if state in alive]
    return {i: scored[i] for i in done or healthy}


def ranked(ledger: Ledger) -> list[Trial]:
    """All of them in one row."""
    return [trial for layer in layers(ledger) for trial in layer]


def leaders(ledger: Ledger) -> list[Trial]:
    """The Pareto front; with one objective the best trial, the first of equals."""
    first = next(iter(layers(ledger)), [])
    return first if ledger.study.objectives else first[:1]
