"""What became of one trial and why, in sentences: all of it read from the log."""

from collections.abc import Iterator
from statistics import fmean

from spinlock.errors import SearchError
from spinlock.search.events import Sizing, State
from spinlock.search.ledger import Ledger
from spinlock.search.methods import GP, TPE
from spinlock.search.ranking import leaders, tried_first
from spinlock.search.report import settings
from spinlock.search.space import Promotion
from spinlock.search.trial import Trial


def explain(ledger: Ledger, number: int) -> list[str]:
    """The story of trial `number`, from its suggestion to its end, and how it looks by now.

    Raises SearchError when there is no such trial.
    """
    trial = ledger.trials.get(number)
    if trial is None:
        held = f"0 to {len(ledger.trials) - 1}" if ledger.trials else "none yet"
        raise SearchError(f"there is no trial {number}; the search has {held}.")
    return [
        f"Trial {number}: {_state(ledger, trial)}",
        _origin(ledger, trial),
        *_attempts(trial),
        *_reports(ledger, trial),
        *_rungs(ledger, trial),
        *_end(trial),
        *_hindsight(ledger, trial),
    ]


def _state(ledger: Ledger, trial: Trial) -> str:
    state = trial.state(live=ledger.live)
    return f"{state} by {trial.verdict.rule}" if trial.verdict is not None else str(state)


def _origin(ledger: Ledger, trial: Trial) -> str:
    study = ledger.study
    if trial.number < len(study.start):
        who = f"Start point {trial.number + 1} of the study"
    elif prior := next((p for p in tried_first(ledger) if p.parameters == trial.parameters), None):
        who = f"Of the best of the earlier searches, trial {prior.number} of {prior.source}"
    else:
        ended = [t for t in ledger.trials.values() if t.ended and t.ended <= trial.suggested]
        known = len(ended) + len(ledger.priors)
        random = isinstance(study.searcher, TPE | GP) and known < study.searcher.startup_trials
        who = f"Suggested by {study.searcher.kind}{', still at random,' if random else ''}"
        who += f" when {len(ended)} trial{'s' * (len(ended) != 1)} had ended"
        if ledger.priors:
            who += f", beside {len(ledger.priors)} of earlier searches"
    return f"{who}: {settings(trial.parameters)}."


def _attempts(trial: Trial) -> Iterator[str]:
    if trial.started is None:
        yield "It was never started."
    if trial.sizing is not None:
        yield _plan(trial.sizing)
    failed = [
        f"Attempt {attempt} failed: {reason.rstrip('.')}."
        for attempt, reason in enumerate(trial.crashes, start=1)
    ]
    if trial.reopened is not None:
        failed.insert(
            trial.reopened[0],
            "It was given up. The search was resumed, and took it up again with all its retries.",
        )
    yield from failed
    for epoch, reason in trial.preemptions:
        yield (
            f"It was preempted after epoch {epoch}: {reason}. It saved where it was; that counts "
            "against no retry."
        )


def _plan(sizing: Sizing) -> str:
    predicted, margin = sizing.predicted(sizing.micro_batch), f"{sizing.margin:.0%}"
    seconds = sum(probe.seconds for probe in sizing.probes)
    return (
        f"A probe of {seconds:.2g} s planned micro-batches of {sizing.micro_batch} of "
        f"{sizing.footprint.samples}: {predicted / 1e9:.3g} GB and {margin} more, of the "
        f"{sizing.limit / 1e9:.3g} GB of {sizing.device} that are its own."
    )


def _reports(ledger: Ledger, trial: Trial) -> Iterator[str]:
    if trial.started is not None and not trial.history:
        yield "It reported no epoch."
    goals, best = ledger.study.goals, trial.best(ledger.study.goals)
    if best is None:
        return
    for goal, score in zip(goals, best[1], strict=True):
        curve = [row[goal.metric] for row in trial.history.values() if goal.metric in row]
        count = f"{len(curve)} report{'s' if len(curve) > 1 else ''}"
        yield (
            f"In {count} {goal.metric} went from {curve[0]:.4g} to {curve[-1]:.4g}; "
            f"it counts with {score:.4g} at epoch {best[0]}."
        )


def _rungs(ledger: Ledger, trial: Trial) -> Iterator[str]:
    """Its place among those that had come to each rung before it."""
    if len(ledger.study.compared) != 1:
        return
    (compared,) = ledger.study.compared
    waits = isinstance(ledger.study.scheduler, Promotion)
    for rung, values in sorted(ledger.rungs.items()):
        if trial.number not in values:
            continue
        arrived = list(values)[: list(values).index(trial.number) + 1]
        if len(arrived) == 1:
            goes = "where it waits" if waits else "where the first goes on"
            yield f"It was the first at rung {rung}, {goes}."
            continue
        (mine,) = values[trial.number]
        place = 1 + sum(compared.better(values[other][0], mine) for other in arrived)
        yield (
            f"At rung {rung} its {compared.metric} of {mine:.4g} was number {place} of the "
            f"{len(arrived)} that had come so far."
        )


def _end(trial: Trial) -> Iterator[str]:
    verdict = trial.verdict
    if trial.spared is not None:
        yield f"It is audited, so it ran on where it would have ended: {trial.spared.sentence}."
    if verdict is None:
        return
    yield f"It ended: {verdict.sentence}."
    saved = verdict.numbers.get("saved", 0.0)
    seconds = [row["seconds"] for row in trial.history.values() if "seconds" in row]
    if saved > 0:
        spared = f"That spared {saved:g} epoch{'s' if saved > 1 else ''}"
        if seconds:
            spared += f", about {saved * fmean(seconds):.0f} s of its training"
        yield f"{spared}."


def _hindsight(ledger: Ledger, trial: Trial) -> Iterator[str]:
    """A rung knows only who came before; by now others have passed it."""
    verdict = trial.verdict
    if verdict is None or verdict.state != State.PRUNED or len(ledger.study.compared) != 1:
        return
    (compared,) = ledger.study.compared
    values = ledger.rungs.get(int(verdict.numbers.get("rung", -1)))
    if values is None or trial.number not in values:
        return
    (mine,) = values[trial.number]
    place = 1 + sum(compared.better(value, mine) for (value,) in values.values())
    yield f"By now {len(values)} trials have come to that rung; it would be number {place}."
    for best in leaders(ledger)[:1]:
        at = best.best(ledger.study.goals)
        if at is not None and len(at[1]) == 1:
            goal = ledger.study.goals[0].metric
            yield f"The best is trial {best.number}: {goal} {at[1][0]:.4g} at epoch {at[0]}."
