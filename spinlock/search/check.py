"""A study's file, answered for as a whole before anything starts.

Each extreme of the space is validated as a real training configuration, one at a time, and a
misspelt path is answered with file, line, key and the nearest right one. Imports neither Ray nor
Optuna.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from spinlock.config import Lines, dotted, known_paths, nearest, parse, read, replace
from spinlock.errors import ConfigError
from spinlock.search import conditions
from spinlock.search.space import ASHA, Promotion, Rungs, Study
from spinlock.search.trainable import Trainable
from spinlock.search.trainables import TRAINABLES


def load_study(
    path: Path,
    trainable: Trainable,
    overrides: Sequence[str] = (),
    *,
    fixed: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Study:
    """The study in a YAML file, checked as a whole. Raises ConfigError with every fault.

    Training settings in `fixed` win over the file's; those in `defaults` stand where the file
    has none.
    """
    document, lines = read(path)
    study = parse(Study, document, where=str(path), lines=lines, overrides=overrides)
    given = dotted(study.training)
    extra = {k: v for k, v in (defaults or {}).items() if k not in given} | dict(fixed or {})
    study = study.model_copy(update={"training": replace(study.training, extra)})
    check(study, trainable, where=str(path), lines=lines, overrides=overrides)
    return study


def check(
    study: Study,
    trainable: Trainable,
    *,
    where: str,
    lines: Lines | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Raise ConfigError, listing every fault, unless each extreme of the space could train."""
    lines = lines or {}
    _refuse_another_kind(study, trainable, where)
    faults = []
    for path, fault in _faults(study, trainable):
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
        faults.append(f"{where if line is None else f'{where}:{line}'}: {fault}")
    if not faults:
        # A training setting stands in the file under training, or under space if it is searched.
        places = dict(lines)
        for key in study.space:
            if ("space", key) in lines:
                places["training", *key.split(".")] = lines["space", key]
        for point in study.extremes():
            try:
                parse(
                    trainable.model,
                    study.configuration(point),
                    where=where,
                    lines=places,
                    overrides=overrides,
                    within="training",
                )
            except ConfigError as error:
                faults += _under_space(str(error), study).splitlines()
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _refuse_another_kind(study: Study, trainable: Trainable, where: str) -> None:
    """One sentence in place of a fault for each key."""
    if study.space.keys() <= set(known_paths(trainable.model)):
        return
    for kind, other in TRAINABLES.items():
        if study.space.keys() <= set(known_paths(other.model)):
            raise ConfigError(
                f"{where}: this searches the training of a {kind}, not of a {trainable.name}. "
                f"Give it to launch/tune_{kind}.py."
            )


def _under_space(told: str, study: Study) -> str:
    """A searched setting is named where it stands in the file: under space, not training."""
    for key in study.space:
        told = told.replace(f": training.{key}: ", f": space.{key}: ")
    return told


def _faults(study: Study, trainable: Trainable) -> list[tuple[tuple[str | int, ...], str]]:
    """Faults that need no training configuration, each with its path in the document."""
    faults: list[tuple[tuple[str | int, ...], str]] = []
    known, fixed = known_paths(trainable.model), dotted(study.training)
    for key in study.space:
        if key not in known:
            faults.append(
                (("space", key), f"space.{key}: no training setting. {nearest(key, known)}")
            )
        elif key in fixed:
            told = f"searched here and fixed to {fixed[key]!r} under training: keep one of the two"
            faults.append((("space", key), f"space.{key}: {told}."))
    of_conditions = conditions.faults(study.space, fixed)
    faults += of_conditions
    for index, point in enumerate(study.start):
        for key, value in point.items():
            at = f"start.{index}.{key}"
            if key not in study.space:
                message = f"{at}: not searched. {nearest(key, list(study.space))}"
                faults.append((("start", index, key), message))
            elif not study.space[key].holds(value):
                message = f"{at}: {value!r} is outside the space, {study.space[key].extremes}."
                faults.append((("start", index, key), message))
        if not of_conditions:
            faults += conditions.start_faults(study.space, index, point)
    for index, guard in enumerate(study.guards):
        for metric in guard.watched:
            if metric not in trainable.metrics:
                message = (
                    f"guards.{index}: {guard.kind} watches {metric}, which is not among the "
                    f"metrics of a {trainable.name}. {nearest(metric, trainable.metrics)}"
                )
                faults.append((("guards", index), message))
            elif missing := _unset(study, trainable, metric):
                message = f"guards.{index}: {guard.kind} watches {missing}"
                faults.append((("guards", index), message))
        reported = all(
            metric in trainable.metrics and not _unset(study, trainable, metric)
            for metric in guard.watched
        )
        if reported and not guard.force and (reason := trainable.objection(guard)) is not None:
            message = (
                f"guards.{index}: {reason} Set other limits, or force: true to have it anyway."
            )
            faults.append((("guards", index), message))
    return faults + _objective_faults(study, trainable)


def _objective_faults(
    study: Study, trainable: Trainable
) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong with the metrics by which trials are compared."""
    faults: list[tuple[tuple[str | int, ...], str]] = []
    ranking: dict[tuple[str | int, ...], str] = (
        {("objectives", i, "metric"): goal.metric for i, goal in enumerate(study.objectives)}
        if study.objectives
        else {("objective", "metric"): study.goals[0].metric}
    )
    scheduler = study.scheduler
    if isinstance(scheduler, Rungs):
        if scheduler.metric is not None:
            ranking["scheduler", "metric"] = scheduler.metric
        faults += _rung_faults(study, scheduler)
    for index, goal in enumerate(study.goals):
        where = ("objectives", index) if study.objectives else ("objective",)
        for place, limit in enumerate(goal.subject_to):
            ranking[*where, "subject_to", place, "metric"] = limit.metric
    for path, metric in ranking.items():
        named = ".".join(map(str, path))
        weights = [key for key in study.space if key in trainable.weighed.get(metric, ())]
        if weights:
            free = [m for m in trainable.metrics if m.startswith(("val/", "quality/"))]
            sound = [m for m in free if not {*trainable.weighed.get(m, ())} & study.space.keys()]
            message = (
                f"{named}: {metric} is a sum that {' and '.join(weights)} weigh: it falls as the "
                "weights fall, whatever the model learns. Choose one that no searched weight "
                f"enters: {', '.join(sound)}."
            )
            faults.append((path, message))
        elif metric not in trainable.metrics:
            hint = nearest(metric, trainable.metrics)
            message = f"{named}: no metric '{metric}' of a {trainable.name}. {hint}"
            faults.append((path, message))
        elif missing := _unset(study, trainable, metric):
            faults.append((path, f"{named}: {missing}"))
    return faults


def _unset(study: Study, trainable: Trainable, metric: str) -> str | None:
    """What is to be set before runs report `metric`; None if they do."""
    key = trainable.optional.get(metric)
    if key is None or dotted(study.training).get(key) is not None:
        return None
    if key in study.space:
        if not study.space[key].when:
            return None
        return f"{metric}, which runs report that have {key}. Search it without a condition."
    return (
        f"{metric}, which runs report that have {key}. Set it under training (0 measures without "
        "training on it) or search it."
    )


def _rung_faults(study: Study, scheduler: Rungs) -> list[tuple[tuple[str | int, ...], str]]:
    """Trials are compared by one number with a direction, and it must be said which."""
    named = ", ".join(goal.metric for goal in study.goals)
    same = next((goal.mode for goal in study.goals if goal.metric == scheduler.metric), None)
    if scheduler.metric is None and scheduler.mode is not None:
        return [(("scheduler", "mode"), "scheduler.mode: give scheduler.metric with it.")]
    if isinstance(scheduler, ASHA) and scheduler.metric is None and study.objectives:
        message = (
            f"scheduler: {scheduler.kind} compares trials by one number, and there are "
            f"{len(study.goals)} objectives ({named}). Name one as scheduler.metric, or let trials "
            "be compared by all of them with scheduler: {kind: promotion}, or by none with "
            "{kind: none}."
        )
        return [(("scheduler",), message)]
    if scheduler.metric is not None and same is None and scheduler.mode is None:
        message = (
            f"scheduler.metric: {scheduler.metric} is no objective ({named}), so say whether it "
            "should be small or large: scheduler.mode: min or max."
        )
        return [(("scheduler", "metric"), message)]
    if isinstance(scheduler, Promotion) and (told := _nobody_ends(study, scheduler)) is not None:
        return [(("scheduler",), told)]
    if same is not None and scheduler.mode not in (None, same):
        message = (
            f"scheduler.mode: {scheduler.mode}, and the objective {scheduler.metric} is to be "
            f"{same}."
        )
        return [(("scheduler", "mode"), message)]
    return []


def _nobody_ends(study: Study, scheduler: Promotion) -> str | None:
    """What is wrong where so few trials begin that none is promoted from the last rung."""
    epochs = dotted(study.training).get("epochs")
    rungs = scheduler.before(epochs) if isinstance(epochs, int) else ()

    def through(trials: int) -> int:
        for _ in rungs:
            trials = int(trials / scheduler.reduction_factor)
        return trials

    if through(study.trials):
        return None
    needed = next(n for n in count(study.trials) if through(n))
    return (
        f"scheduler: of {study.trials} trials none would pass the rungs {list(rungs)} with a "
        f"reduction_factor of {scheduler.reduction_factor:g}, so none would be trained to its end. "
        f"Ask for {needed} trials, fewer rungs, or a lower factor."
    )
