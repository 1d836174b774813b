"""Which settings of a space are searched in which trials.

A setting with `when` is searched only beside certain values of others, its parents, and is absent
from every other point: there the training's own default stands.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from spinlock.config import nearest
from spinlock.search.parameter import Between, Condition, Parameter, Scalar, keeps

Space = Mapping[str, Parameter]
Fault = tuple[tuple[str | int, ...], str]


def ordered(space: Space) -> tuple[str, ...]:
    """The keys, parents before children; of a space without conditions in its own order."""
    return tuple(TopologicalSorter({k: p.when or {} for k, p in space.items()}).static_order())


def settled(space: Space, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Of a value for every setting, those of the settings that are searched beside each other."""
    active: dict[str, Scalar] = {}
    for key in ordered(space):
        if space[key].active(active):
            active[key] = values[key]
    return {key: active[key] for key in space if key in active}


def opening(space: Space, key: str) -> dict[str, Scalar] | None:
    """Values of its parents, and of theirs, under which `key` is searched; None if there are none.

    Each is an extreme where one will do.
    """
    asked: dict[str, list[Condition]] = {key: []}
    for child in reversed(ordered(space)):
        if child in asked:
            for parent, condition in (space[child].when or {}).items():
                asked.setdefault(parent, []).append(condition)
    del asked[key]
    found = {parent: space[parent].keeping(conditions) for parent, conditions in asked.items()}
    values = {parent: value for parent, value in found.items() if value is not None}
    return values if len(values) == len(found) else None


def faults(space: Space, fixed: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the conditions, each with its path in the document.

    `fixed` are the settings that stand under training.
    """
    found: list[Fault] = [
        (("space", key, "when", parent), f"space.{key}.when.{parent}: {fault}")
        for key, parameter in space.items()
        for parent, condition in (parameter.when or {}).items()
        for fault in _of_condition(space, parent, condition, fixed)
    ]
    if found:
        return found
    try:
        ordered(space)
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        message = f"space.{circle[0]}.when: a circle: {' needs '.join(circle)}. Leave out one."
        return [(("space", circle[0], "when"), message)]
    return [
        (
            ("space", key, "when"),
            f"space.{key}.when: it would never be searched: its conditions, with those of the "
            "settings that they name, exclude each other.",
        )
        for key in space
        if opening(space, key) is None
    ]


def _of_condition(
    space: Space, parent: str, condition: Condition, fixed: Mapping[str, Any]
) -> Iterator[str]:
    if parent not in space:
        if parent in fixed:
            yield (
                f"not searched, but fixed to {fixed[parent]!r} under training. Search it, or "
                "leave the condition out."
            )
        else:
            yield f"not searched. {nearest(parent, list(space))}"
        return
    setting = space[parent]
    each = condition if isinstance(condition, tuple) else (condition,)
    if (
        setting.choice is None
        and setting.int_uniform is None
        and not isinstance(condition, Between)
    ):
        yield (
            f"no single value of a range is drawn twice, so {_shown(condition)} cannot be waited "
            "for. Give bounds: {min: ..., max: ...}."
        )
        return
    for value in each:
        if setting.keeping((value,)) is None:
            yield f"{parent} is never {_shown(value)}, but {setting.extremes}."


def start_faults(space: Space, index: int, point: Mapping[str, Scalar]) -> Iterator[Fault]:
    """Where a start point gives a setting that is not searched in it, or lacks one that is.

    Settings that are searched in every trial, and those whose parents the point leaves open, may
    be left to the searcher.
    """
    off: set[str] = set()  # whatever the searcher adds to the point
    for key in ordered(space):
        conditions = space[key].when or {}
        reason = next(
            (
                f"{parent} is {'not searched' if parent in off else repr(point[parent])}"
                for parent, condition in conditions.items()
                if parent in off or (parent in point and not keeps(point[parent], condition))
            ),
            None,
        )
        if reason is not None:
            off.add(key)
        lacking = [parent for parent in conditions if parent not in point]
        if key in point and (reason is not None or lacking):
            here = f"{reason}. Leave it out" if reason else f"{lacking[0]} is not given. Give both"
            yield (
                ("start", index, key),
                f"start.{index}.{key}: searched only when {_told(conditions)}, and here {here}.",
            )
        elif key not in point and conditions and reason is None and not lacking:
            yield (
                ("start", index),
                f"start.{index}: {key} is not given, and is searched here: {_told(conditions)}.",
            )


def _told(conditions: Mapping[str, Condition]) -> str:
    return " and ".join(f"{parent} is {_shown(each)}" for parent, each in conditions.items())


def _shown(condition: Condition) -> str:
    if isinstance(condition, tuple):
        return " or ".join(map(repr, condition))
    if not isinstance(condition, Between):
        return repr(condition)
    low, high = condition.min, condition.max
    bounds = (low is not None and f"at least {low:g}", high is not None and f"at most {high:g}")
    return " and ".join(bound for bound in bounds if bound)
