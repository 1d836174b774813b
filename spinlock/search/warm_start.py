"""What earlier searches tell one that begins: their trials that fit it, as priors in its own log.

A trial fits if each setting that is searched here has a value that the space holds, searched or
fixed there, and each that was searched there and is fixed here has that very value. Failed trials
and those without a report tell nothing. Once the log has the priors, the earlier search may vanish.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinlock.config import dotted, parse
from spinlock.errors import SearchError
from spinlock.search.conditions import ordered
from spinlock.search.events import Prior, State
from spinlock.search.ledger import read_ledger
from spinlock.search.parameter import Parameter, Scalar
from spinlock.search.space import Study
from spinlock.search.trainable import Trainable
from spinlock.search.trial import Trial

_FILES = ("data.path", "tokenizer", "features_cache")  # what is in them is among the facts


@dataclass(frozen=True)
class Earlier:
    """The priors that one earlier search gives, and what a person should know of them."""

    priors: tuple[Prior, ...]
    sentences: tuple[str, ...]


def earlier(
    study: Study, trainable: Trainable, facts: Mapping[str, Any] | None = None
) -> list[Earlier]:
    """What each search in `study.warm_start` gives; `facts` are this one's, where they are known.

    Raises SearchError for one of another trainable or objective, and where no trial of one fits.
    """
    return [_earlier(place, study, trainable, facts) for place in study.warm_start]


def _earlier(
    place: Path, study: Study, trainable: Trainable, facts: Mapping[str, Any] | None
) -> Earlier:
    ledger = read_ledger(place)
    then, opened = ledger.study, ledger.opened
    assert opened is not None  # it has a study
    if opened.trainable != trainable.name:
        raise SearchError(
            f"warm_start: {place} searched the training of a {opened.trainable}, and this search "
            f"is of a {trainable.name}. Name searches of the same."
        )
    if _goals(then) != _goals(study):
        raise SearchError(
            f"warm_start: {place} was judged by {_goals(then)}, and this search is by "
            f"{_goals(study)}. Name searches by the same."
        )
    fit = _Fit(then, study, _settings(then, trainable, place), _settings(study, trainable, "here"))
    priors, unfit = list[Prior](), Counter[tuple[str, str]]()
    for trial in ledger.trials.values():
        point = _untold(trial) or fit.point(trial.parameters)
        if isinstance(point, tuple):
            unfit[point] += 1
        else:
            priors.append(_prior(trial, point, study, place))
    told = f"{len(priors)} of {len(ledger.trials)} trials of {place} fit"
    if unfit:
        told += ": " + ", ".join(
            f"{n} {many if n > 1 else one}" for (one, many), n in unfit.items()
        )
    if not priors:
        raise SearchError(f"warm_start: {told}. Leave it out, or let the space hold them.")
    before = {} if facts is None else {k: v for k, v in opened.facts.items() if v != facts.get(k)}
    return Earlier(tuple(priors), (f"{told}.", *_others(place, before, fit.others())))


def _others(place: Path, facts: Mapping[str, Any], settings: list[str]) -> Iterator[str]:
    """Warnings: values may be on another scale."""
    if facts:
        yield (
            f"{place} stood on another {' and '.join(facts)}. Its values count as if they were of "
            "this search, so where the level of the objective differs they mislead."
        )
    if settings:
        yield f"{place} trained with other settings: {', '.join(settings)}."


@dataclass(frozen=True)
class _Fit:
    """An earlier study against this one. `before` and `now` are all settings of a run of each."""

    then: Study
    study: Study
    before: Mapping[str, Any]
    now: Mapping[str, Any]

    def point(self, parameters: Mapping[str, Scalar]) -> dict[str, Scalar] | tuple[str, str]:
        """The trial's point in this space, or why it has none, of one such trial and of many."""
        for key in self.then.space:
            if key not in self.study.space and parameters.get(key) != self.now.get(key):
                told = f"{key} other than the {self.now.get(key)!r} that is fixed here"
                return f"has {told}", f"have {told}"
        fixed = {key: v for key, v in self.before.items() if key not in self.then.space}
        found, there = dict[str, Scalar](), {**fixed, **parameters}
        for key in ordered(self.study.space):
            parameter = self.study.space[key]
            if not parameter.active(found):
                continue
            value = _held(parameter, there.get(key))
            if value is None:
                return f"is outside space.{key}", f"are outside space.{key}"
            found[key] = value
        return {key: found[key] for key in self.study.space if key in found}

    def others(self) -> list[str]:
        """What is fixed in both, to different values."""
        searched = {*self.then.space, *self.study.space, *_FILES}
        return [
            f"{key} {self.before.get(key)} for {value}"
            for key, value in self.now.items()
            if key not in searched and self.before.get(key) != value
        ]


def _held(parameter: Parameter, value: Any) -> Scalar | None:
    """The value as this parameter writes it; None if it does not hold it."""
    if parameter.choice is not None:
        same = (
            c
            for c in parameter.choice
            if c == value and isinstance(c, bool) == isinstance(value, bool)
        )
        return next(same, None)
    if not isinstance(value, int | float) or not parameter.holds(value):
        return None
    return int(value) if parameter.int_uniform is not None else float(value)


def _untold(trial: Trial) -> tuple[str, str] | None:
    """Why a trial tells nothing of its point; None if it does."""
    if trial.state() == State.FAILED:
        return "failed", "failed"
    if trial.verdict is None and not trial.history:
        return "has no report yet", "have no report yet"
    return None


def _prior(trial: Trial, point: dict[str, Scalar], study: Study, place: Path) -> Prior:
    return Prior(
        time=time.time(),
        source=str(place),
        trial=trial.number,
        parameters=point,
        history={
            epoch: {name: value for name, value in metrics.items() if name in study.needed}
            for epoch, metrics in trial.history.items()
        },
        verdict=trial.verdict,
    )


def _goals(study: Study) -> str:
    return " and ".join(sorted(f"{goal.metric} ({goal.mode})" for goal in study.goals))


def _settings(study: Study, trainable: Trainable, where: Path | str) -> dict[str, Any]:
    config = parse(trainable.model, study.configuration(study.corner), where=str(where))
    return dotted(config.model_dump(mode="json"))
