"""What a free worker does next: one function from the ledger to a move.

Pure, as the rules are: live, resumed or replayed, the same log gives the same moves.
"""

from dataclasses import dataclass
from typing import Literal

from spinlock.search.events import State, Verdict
from spinlock.search.ledger import Ledger
from spinlock.search.space import Promotion
from spinlock.search.trial import Trial


@dataclass(frozen=True)
class Promote:
    """Take up the trial that waits at this rung."""

    trial: int
    rung: int


Move = Promote | Literal["new", "wait", "end"]


def next_move(ledger: Ledger) -> Move:
    """Take up a paused trial, begin a new one, wait for those under way, or end the search."""
    if ledger.broken is not None:
        return "end"
    study = ledger.study
    spent = ledger.spent is not None  # then those that wait go on waiting, for a resume with more
    if isinstance(study.scheduler, Promotion) and not spent:
        for rung in sorted(ledger.rungs, reverse=True):
            for number in _best(ledger, rung, study.scheduler):
                if ledger.trials[number].paused == rung:
                    return Promote(number, rung)
    if ledger.left:
        return "new"
    waits = isinstance(study.scheduler, Promotion) and ledger.under_way
    return "wait" if waits else "end"


def unpromoted(ledger: Ledger, trial: Trial, *, epochs: int) -> Verdict:
    """Why a trial of `epochs` epochs goes on no more from the rung where it is paused."""
    rung, study = trial.paused, ledger.study
    if rung is None or not isinstance(study.scheduler, Promotion):
        raise ValueError(f"trial {trial.number} is not paused")
    values, goals = ledger.rungs[rung], study.compared
    order = values.best(len(values))
    allowed = _allowed(len(order), study.scheduler)
    place = order.index(trial.number) + 1
    mine = values[trial.number]
    told = ", ".join(f"{g.metric} {v:.4g}" for g, v in zip(goals, mine, strict=True))
    by = " by the hypervolume that they add" if len(goals) > 1 else ""
    go_on = f"the best {allowed} go on" if allowed else "too few for any to go on"
    numbers: dict[str, float] = {"epoch": trial.epochs, "saved": epochs - trial.epochs}
    numbers |= {"rung": rung, "compared": len(order)}
    if len(goals) == 1:
        numbers["value"] = mine[0]
        if allowed:
            numbers["limit"] = values[order[allowed - 1]][0]
    return Verdict(
        state=State.PRUNED,
        rule="promotion",
        sentence=(
            f"promotion: {told} at epoch {trial.epochs} is number {place} of {len(order)}{by}: "
            f"{go_on}"
        ),
        metric=goals[0].metric if len(goals) == 1 else None,
        numbers=numbers,
    )


def _best(ledger: Ledger, rung: int, promotion: Promotion) -> list[int]:
    """Those of a rung that may go on, the best first.

    Who was given up when a search had ended takes no place after a resume with more trials.
    """
    values = ledger.rungs[rung]
    allowed, passed = _allowed(len(values), promotion), len(values.keys() & ledger.given_up)
    order = values.best(allowed + passed)
    return [number for number in order if number not in ledger.given_up][:allowed]


def _allowed(come: int, promotion: Promotion) -> int:
    return int(come / promotion.reduction_factor)
