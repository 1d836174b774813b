"""What a search would do, shown without doing it."""

import statistics
from pathlib import Path

from rich.console import Console

from spinlock.config import as_yaml, dotted, parse, replace
from spinlock.errors import SpinlockError
from spinlock.search.forecast import Forecast, forecast
from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.outlook import Outlook, Point, beside, outlook, paces_of
from spinlock.search.prepare import missing
from spinlock.search.report import settings
from spinlock.search.space import Rungs, Study
from spinlock.search.trainable import Trainable

_SHOWN = 8  # memory plans


def show_plan(
    console: Console,
    study: Study,
    trainable: Trainable,
    *,
    experiment: Path | None = None,
    samples: int = 3,
) -> None:
    """Print the study with every default filled in, and points as a searcher might draw them.

    Then what they will take of memory and of time: by what was measured in `experiment` if the
    search has begun there, else by a rehearsal, where all files are there.
    """
    points = study.sample(samples)
    config = parse(trainable.model, study.configuration(points[0]), where=study.name)
    every = dotted(config.model_dump(mode="json"))
    fixed = {key: value for key, value in every.items() if key not in study.space}
    resolved = study.model_dump(mode="json", exclude_none=True) | {"training": replace({}, fixed)}
    if not study.objectives:
        resolved["objective"] = study.goals[0].model_dump()
    console.print(as_yaml(resolved), highlight=False, markup=False, soft_wrap=True)
    for index, point in enumerate(points, start=1):
        parse(trainable.model, study.configuration(point), where=f"sample {index}")
        console.print(f"sample {index}: {settings(point)}", highlight=False, soft_wrap=True)
    reporting = trainable.reporting(config)
    if isinstance(study.scheduler, Rungs):
        passed = [
            next(e for e in reporting if e >= r) for r in study.scheduler.before(reporting[-1])
        ]
        rungs = ", ".join(str(e) for e in dict.fromkeys(passed) if e < reporting[-1]) or "no epoch"
        console.print(f"{reporting[-1]} epochs a trial; compared with others after {rungs}.")
    expected = forecast(study, trainable, epochs=reporting[-1])
    if expected is not None:
        console.print(f"Expected: {expected}.", highlight=False, soft_wrap=True)
    for line in _resources(study, trainable, points, experiment, expected, reporting[-1]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    begin = f"{len(study.start)} start points, then " if study.start else ""
    begin += "the best of the earlier searches, then " if study.warm_start else ""
    budget = study.budget
    for limit in (
        budget.epochs and f"{budget.epochs} epochs in all",
        budget.hours and f"{budget.hours:g} hours",
    ):
        if limit:
            console.print(f"No trial begins after {limit}.")
    console.print(f"{study.trials} trials: {begin}{study.searcher.kind}. Nothing was trained.")


def _resources(
    study: Study,
    trainable: Trainable,
    points: list[Point],
    experiment: Path | None,
    expected: Forecast | None,
    epochs: int,
) -> list[str]:
    """Memory and hours in lines, or why they cannot be told."""
    if absent := missing(study):
        return [
            f"Memory and hours: nothing can be probed, since {' and '.join(absent)} "
            f"{'are' if len(absent) > 1 else 'is'} made when the search begins."
        ]
    try:
        found = outlook(study, trainable, points)
    except SpinlockError as error:
        return [f"Memory and hours: the probe of a point failed: {error}"]
    if found is None:
        return ["Memory and hours: nothing can be probed of a compiled network."]
    paces, start = list(found.paces), found.start
    source = "by the probes of the samples"
    if experiment is not None and (experiment / EVENTS).is_file():
        measured = paces_of(read_ledger(experiment))
        if measured is not None:
            paces, start = measured
            source = f"by the epochs in {experiment}"
    at_once = study.resources.at_once_here
    if expected is None:
        each = statistics.mean(seconds for _, seconds in paces)
        most = beside(study.resources, study.trials, start) + each * study.trials * epochs / at_once
        time = f"at most {_span(most)}"
    else:
        wall = expected.wall(study, paces, start)
        time = f"about {_span(wall.mean)} ({_span(wall.low)} to {_span(wall.high)})"
    return [*_memory(found), f"Time: {time}; {source}, {at_once} at once."]


def _memory(found: Outlook) -> list[str]:
    lines = [
        f"Memory: {_gigabytes(found.limit)} GB of {found.device} for a worker; micro-batches leave "
        f"{found.margin:.0%} of what is predicted free."
    ]
    for plan in sorted(found.plans, key=lambda plan: -plan.predicted)[:_SHOWN]:
        fits = "" if plan.fits else ", more than there is"
        lines.append(
            f"  {_gigabytes(plan.predicted)} GB{fits} with micro-batches of {plan.micro_batch} of "
            f"{plan.samples}: {settings(plan.point)}"
        )
    return lines


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
