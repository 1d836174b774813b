"""How a trial is run: inside its own process, or by a group of Ray Train workers.

Both drive the same generator of reports and wait for the verdict on an epoch before they train
the next, so they give the same numbers and stop at the same epochs. What differs is cost:

    in_process   one process, reused by the next trial
    ray_train    besides it a group of workers with its helpers, four processes and 7 s to
                 start, reused by the next trial; workers may be a few, on several hosts
"""

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray._raylet import setproctitle  # type: ignore[attr-defined]
from ray.tune.trainable.function_trainable import wrap_function

from spinlock.search.checkpoints import Report
from spinlock.search.events import Sizing
from spinlock.search.group import Group, Reports
from spinlock.search.packed import Packed, unpacked
from spinlock.search.preemption import drained, heed_termination, own_node
from spinlock.search.rules import Stop
from spinlock.search.space import Resources

TRIAL = "trial"
_PLAN = "plan"
TrialFunction = Callable[[dict[str, Any]], None]


def in_process(attempt: Packed) -> Any:
    """A Tune trainable that makes the `attempt` in the process that it is called in."""
    return _for_tune(partial(_train_here, attempt))


def ray_train(attempt: Packed, resources: Resources, storage: Path) -> Any:
    """Another that has it made by this process's group of Ray Train workers."""
    return _for_tune(partial(_train_group, attempt, resources, storage))


class _Trials:
    """What Tune's class around a function has besides."""

    config: dict[str, Any]

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)  # type: ignore[misc]
        heed_termination()  # only here is it in the main thread

    def __repr__(self) -> str:
        return f"{_experiment(self.config)} from trial {self.config[TRIAL]} on"


def _for_tune(function: TrialFunction) -> Any:
    """`function` for Tune, as an actor that Ray's dashboard shows by what it trains.

    An actor has one name for life, and trains many trials. The one under way is its process's
    title.
    """
    return type("Trials", (_Trials, wrap_function(function)), {})


def _experiment(config: dict[str, Any]) -> str:
    return Path(config["directory"]).parents[1].name


def _train_here(attempt: Packed, config: dict[str, Any]) -> None:
    _report(unpacked(attempt)(config, lambda: drained([own_node()]), leads=True), config)


_group: Group | None = None  # of this process, kept from trial to trial


def _train_group(
    attempt: Packed, resources: Resources, storage: Path, config: dict[str, Any]
) -> None:
    global _group
    if _group is not None and _group.alive and _group.outgrown:
        _group.dismiss()
    if _group is None or not _group.alive:
        # A name of its own: Ray Train would resume by itself what the trials' checkpoints resume.
        name = f"{_experiment(config)}-{tune.get_context().get_trial_name()}-{os.getpid()}"
        _group = Group(attempt, resources, storage, name)
    _report(_group.reports(config), config)


def _report(told: Reports, config: dict[str, Any]) -> None:
    """Tell each; Tune returns when the driver has heard and judged it."""
    trial = f"ray::{_experiment(config)} trial {config[TRIAL]}"
    title = f"{trial} from epoch {config['acknowledged'] + 1} on"
    setproctitle(title)
    with closing(told):
        for each in told:
            if isinstance(each, Sizing):
                tune.report({_PLAN: each.model_dump_json()})
            else:
                tune.report(_pack(each))
                title = f"{trial} after epoch {each.epoch}"
            setproctitle(title)  # Ray's own stood there meanwhile


def plan_in(result: dict[str, Any]) -> Sizing | None:
    """The plan in one of Tune's results; None if it holds none."""
    return Sizing.model_validate_json(result[_PLAN]) if _PLAN in result else None


def unpack(result: dict[str, Any]) -> tuple[int, dict[str, float], Stop | None] | None:
    """Epoch, metrics and stop in one of Tune's flattened results; None if it holds no report."""
    if "epoch" not in result:
        return None
    prefix = "metrics/"
    metrics = {k.removeprefix(prefix): float(v) for k, v in result.items() if k.startswith(prefix)}
    stop = Stop(result["stop_kind"], result["stop_sentence"]) if result["stop_kind"] else None
    return int(result["epoch"]), metrics, stop


def _pack(report: Report) -> dict[str, Any]:
    stop = report.stop or Stop("", "")
    return {
        "epoch": report.epoch,
        "metrics": report.metrics,
        "stop_kind": stop.kind,
        "stop_sentence": stop.sentence,
    }
