"""What happens after an epoch: one function from the ledger and a report to a verdict, or none.

Pure: no clock, no randomness, no state of its own. Guards judge a trial by its own history,
ASHA compares it with the others at a rung. Live, resumed or replayed, the same log gives the
same verdicts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from spinlock.search.events import State, Verdict
from spinlock.search.ledger import Ledger
from spinlock.search.ranking import best_priors
from spinlock.search.rung import Rung
from spinlock.search.space import ASHA, Objective
from spinlock.search.trial import Trial


@dataclass(frozen=True)
class Stop:
    """A trainer's own end: kind is nonfinite, memory or early_stopping."""

    kind: str
    sentence: str


def decide(
    ledger: Ledger,
    trial: Trial,
    epoch: int,
    metrics: Mapping[str, float],
    stop: Stop | None,
    *,
    epochs: int,
) -> tuple[Verdict | None, Verdict | None]:
    """The verdict on a report, and the one that the trial is spared since it is audited."""
    found = judge(ledger, trial, epoch, metrics, stop, epochs=epochs)
    stopped = found is not None and found.state in (State.GUARDED, State.PRUNED)
    if not stopped or not ledger.study.audits(trial.number):
        return found, None
    spared = found if trial.spared is None else None
    return _completed(epoch, stop, epochs=epochs), spared


def judge(
    ledger: Ledger,
    trial: Trial,
    epoch: int,
    metrics: Mapping[str, float],
    stop: Stop | None,
    *,
    epochs: int,
) -> Verdict | None:
    """The verdict on `trial` after its next report, of `metrics` at `epoch`; None: it goes on.

    `epochs` is the length of the whole run. A trial that ends by itself is told so before it is
    compared; one that a guard or a NaN ends is compared with nobody.
    """
    study = ledger.study
    needed = study.needed
    at = {"epoch": float(epoch), "saved": float(epochs - epoch)}
    if stop is not None and stop.kind in ("nonfinite", "memory"):
        return Verdict(
            state=State.INFEASIBLE, rule=stop.kind, sentence=_sentence(stop.sentence), numbers=at
        )
    missing = sorted(needed - metrics.keys())
    if missing:
        found = ", ".join(sorted(metrics)) or "nothing"
        sentence = f"epoch {epoch} reported no {' and no '.join(missing)}, but {found}"
        return Verdict(state=State.FAILED, rule="no_metric", sentence=sentence, numbers=at)
    for name, value in metrics.items():
        judged = name in needed or name.startswith(("train/", "val/"))
        if judged and not math.isfinite(value):
            sentence = f"{name} is {value} at epoch {epoch}"
            return Verdict(
                state=State.INFEASIBLE,
                rule="nonfinite",
                sentence=sentence,
                metric=name,
                numbers=at,
            )
    history = {**trial.history, epoch: metrics}
    for guard in study.guards:
        breach = guard.check(history)
        if breach is not None:
            return Verdict(
                state=State.GUARDED,
                rule=guard.kind,
                sentence=breach.sentence,
                metric=breach.metric,
                numbers=at | {"value": breach.value, "limit": breach.limit},
            )
    done = _completed(epoch, stop, epochs=epochs)
    if done is not None:
        return done
    if isinstance(study.scheduler, ASHA) and study.compared:
        rung = study.scheduler.passed(after=trial.epochs, epoch=epoch)
        if rung is not None and not _runs_to_its_end(ledger, study.scheduler, trial):
            (goal,) = study.compared
            before, value = ledger.rungs.get(rung), metrics[goal.metric]
            return _compare(goal, study.scheduler, before, value, at | {"rung": rung})
    return None


def _runs_to_its_end(ledger: Ledger, asha: ASHA, trial: Trial) -> bool:
    """Whether this trial shows what is possible: one of the first, or the best earlier point."""
    if asha.spare is not None:
        return trial.number < asha.spare
    if trial.number > len(ledger.study.start):  # that point is a start point, or right after them
        return False
    best = next(best_priors(ledger), None)
    return best is not None and trial.parameters == best.parameters


def give_up(trial: Trial, *, retries: int) -> Verdict | None:
    """The end of a trial whose attempt has just failed; None: another attempt follows.

    What it failed by before it was taken up again is none of the `retries`. Neither is a kill by a
    memory monitor, which costs half the micro-batch. But of a trial that has no plan yet nothing is
    known to be too large, and such kills end with them, too.
    """
    ended = trial.too_large and "with a micro-batch of 1"
    if trial.sizing is None and trial.killed > retries:
        times = "once" if trial.killed == 1 else f"{trial.killed} times"
        ended = f"{times} before it had begun to train"
    if ended:
        return Verdict(
            state=State.INFEASIBLE,
            rule="memory",
            sentence=f"the node's memory monitor killed it {ended}",
            numbers={"epoch": float(trial.epochs), "kills": float(trial.killed)},
        )
    if len(trial.crashes) - trial.killed - trial.forgiven > retries:
        return Verdict(state=State.FAILED, rule="failed", sentence=trial.crashes[-1])
    return None


def _completed(epoch: int, stop: Stop | None, *, epochs: int) -> Verdict | None:
    """The end of a trial that was left to itself; None before it."""
    at = {"epoch": float(epoch), "saved": float(epochs - epoch)}
    if stop is not None:
        sentence = _sentence(stop.sentence)
        return Verdict(state=State.COMPLETED, rule=stop.kind, sentence=sentence, numbers=at)
    if epoch >= epochs:
        sentence = f"ran all {epochs} epochs"
        return Verdict(state=State.COMPLETED, rule="completed", sentence=sentence, numbers=at)
    return None


def _compare(
    objective: Objective,
    asha: ASHA,
    before: Rung | None,
    value: float,
    at: Mapping[str, float],
) -> Verdict | None:
    """ASHA at a rung: stop unless among the best 1/factor of those that came `before`."""
    if not before:
        return None
    cut = before.cut(asha.reduction_factor)
    if not objective.better(cut, value):
        return None
    sentence = (
        f"ASHA: {objective.metric} {value:.4g} at epoch {at['epoch']:g} is not among the best "
        f"1/{asha.reduction_factor:g} of {len(before) + 1} (cut {cut:.4g})"
    )
    return Verdict(
        state=State.PRUNED,
        rule="asha",
        sentence=sentence,
        metric=objective.metric,
        numbers={**at, "value": value, "limit": cut, "compared": len(before) + 1},
    )


def _sentence(text: str) -> str:
    """A trainer's sentence as it stands in tables: one line, no full stop at its end."""
    return " ".join(text.split()).rstrip(".")
