"""What a search would do, shown without doing it."""

from rich.console import Console

from spinlock.config import as_yaml, dotted, parse, replace
from spinlock.search.forecast import forecast
from spinlock.search.report import settings
from spinlock.search.space import Rungs, Study
from spinlock.search.trainable import Trainable


def show_plan(console: Console, study: Study, trainable: Trainable, *, samples: int = 3) -> None:
    """Print the study with every default filled in, and points as a searcher might draw them."""
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
