"""A study on paper: what is searched, by which objective, with which rules and resources.

Imports neither Ray nor Optuna, so a space can be checked anywhere.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from spinlock.config import SECRET, Config, replace
from spinlock.search import conditions
from spinlock.search.methods import CMAES, QMC, TPE, Grid, Method, Random
from spinlock.search.parameter import Parameter, Scalar
from spinlock.training.guards import Guard

_PASSWORD = re.compile("(password|passwd|pwd)=", re.IGNORECASE)


class Limit(Config):
    """A bound that an epoch's metric must keep: at most `max`, at least `min`."""

    metric: str
    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> "Limit":
        if self.max is None and self.min is None:
            raise ValueError(f"a limit of {self.metric} needs max, min, or both")
        return self

    def excess(self, metrics: Mapping[str, float]) -> float:
        """By how much the metric is outside, at most 0 inside; infinite where it is not there."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return math.inf
        beyond = (
            value - self.max if self.max is not None else -math.inf,
            self.min - value if self.min is not None else -math.inf,
        )
        return max(beyond)

    def __str__(self) -> str:
        low = "" if self.min is None else f"{self.min:g} <= "
        return f"{low}{self.metric}{'' if self.max is None else f' <= {self.max:g}'}"


class Objective(Config):
    """A metric by which trials are ranked; a trial counts by its best epoch.

    Of the epochs that keep every limit of `subject_to`: one that does not counts for nothing.
    """

    metric: str = "val/traj"
    mode: Literal["min", "max"] = "min"
    subject_to: tuple[Limit, ...] = ()

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return value < than if self.mode == "min" else value > than

    def cost(self, value: float) -> float:
        """The value as something of which less is better, and back again."""
        return value if self.mode == "min" else -value


class Resources(Config):
    """How trials are run, and with what.

    `ray_train` trains each trial by a group of Ray Train workers, data parallel if they are
    several. `in_process` trains one worker inside the trial's own process: the same numbers, and
    two fifths of the memory. Either way the processes are kept for the next trial.
    """

    execution: Literal["ray_train", "in_process"] = "ray_train"
    workers: int = Field(1, ge=1)
    min_workers: int | None = Field(None, ge=1)  # with so few a trial goes on; None: with all
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0.0, ge=0)
    concurrent: int | None = Field(None, ge=1)  # None: as many as the machine has room for
    memory_gb_per_worker: float | None = Field(None, gt=0)  # None: its part of the device
    train_poll_seconds: float = Field(0.2, gt=0)  # how soon the death of a worker is noticed

    @property
    def at_once_here(self) -> int:
        """How many trials a Ray of our own on this machine trains at the same time."""
        cpus = self.workers * self.cpus_per_worker
        return self.concurrent or max(1, (os.cpu_count() or 1) // cpus)

    @model_validator(mode="after")
    def _possible(self) -> "Resources":
        if self.execution == "in_process" and self.workers > 1:
            raise ValueError(
                f"in_process trains one worker per trial, and workers is {self.workers}. "
                "Set execution: ray_train for data parallelism"
            )
        if self.workers > 1 and self.gpus_per_worker % 1:
            raise ValueError(
                f"gpus_per_worker is {self.gpus_per_worker:g}: two workers of a trial may then be "
                "on one GPU, which NCCL refuses. Give each of them whole ones, or set workers: 1"
            )
        if self.min_workers is not None and self.min_workers >= self.workers:
            raise ValueError(
                f"min_workers is how many of {self.workers} workers are enough, where a machine is "
                f"lost: fewer than that, not {self.min_workers}"
            )
        return self

    @property
    def fewest(self) -> int:
        """With so many workers a trial can train."""
        return self.min_workers or self.workers


class Rungs(Config):
    """Where trials are compared: at epochs `rungs`, or `grace_epochs` times powers of the factor.

    Compared is the objective, or `metric`. Of several objectives ASHA must be told which;
    promotion compares by all of them.
    """

    kind: str
    rungs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    grace_epochs: int = Field(1, ge=1)
    reduction_factor: float = Field(3.0, gt=1)
    metric: str | None = None
    mode: Literal["min", "max"] | None = None  # None: that of the objective of this metric

    @model_validator(mode="after")
    def _ascending(self) -> "Rungs":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs must be ascending epochs, not {list(self.rungs)}")
        if self.rungs and self.grace_epochs != 1:
            raise ValueError("give rungs, or grace_epochs from which they follow, not both")
        return self

    def before(self, epochs: int) -> tuple[int, ...]:
        """The epochs before the last at which trials are compared."""
        if self.rungs:
            return tuple(rung for rung in self.rungs if rung < epochs)
        rungs, at = [], float(self.grace_epochs)
        while round(at) < epochs:
            rungs.append(round(at))
            at *= self.reduction_factor
        return tuple(dict.fromkeys(rungs))

    def passed(self, *, after: int, epoch: int) -> int | None:
        """The highest rung that a run at `epoch` has passed since epoch `after`, if any.

        Runs that do not report every epoch are compared at their first report at or after a rung.
        """
        return max((r for r in self.before(epoch + 1) if r > after), default=None)


class ASHA(Rungs):
    """Asynchronous successive halving, the stopping form.

    At a rung a trial goes on if it is among the best 1/`reduction_factor` of those that came
    before it there (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020; with
    Ray's interpolated cut). The first at a rung always goes on. The first `spare` trials run to
    their end whoever is better, as what the best is held against; by default that is the point of
    the best earlier trial in a search that knows one, and none in another.
    """

    kind: Literal["asha"] = "asha"
    spare: int | None = Field(None, ge=0)


class Promotion(Rungs):
    """Asynchronous successive halving as it was published: trials wait at a rung, the best go on.

    Every trial pauses at each rung with its checkpoint. Whoever has a free place takes up the best
    paused one of the highest rung where it is among the best 1/`reduction_factor` of all that have
    come (Li et al., 2020, algorithm 2), and begins a new one where there is none. So a good
    trial is never stopped for coming early, and no bad one runs on for having come first. With
    several objectives the best are those that together dominate most: each is chosen for the
    hypervolume that it adds.
    """

    kind: Literal["promotion"] = "promotion"


class NoScheduler(Config):
    """Every trial runs to its end, unless a guard stops it."""

    kind: Literal["none"] = "none"


class Budget(Config):
    """What a search may spend before it begins no further trial; those under way run on."""

    epochs: int | None = Field(None, ge=1)  # trained, over all trials
    hours: float | None = Field(None, gt=0)  # of its sessions together


def _without_password(url: str) -> str:
    """A storage is written to logs, to the event log and shown: a password has no place in it."""
    if not re.match(r"[\w+]+://", url):
        raise ValueError(
            "a storage is the URL of a database, such as sqlite:////shared/optuna.db or "
            "postgresql://user@host/optuna"
        )
    if re.match(r"[\w+]+://[^/:@]*:[^@]*@", url) or _PASSWORD.search(unquote(url)):
        # Not shown as what was found, either: the value of a refused setting is.
        raise PydanticCustomError(
            SECRET,
            "a storage with a password in it is kept nowhere: take it out of the URL, and set "
            "SPINLOCK_STORAGE_PASSWORD in the environment",
        )
    return url


class Study(Config):
    """One search: the file in `search_spaces/`, with overrides applied."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(0, ge=0)
    trials: int = Field(ge=1)
    budget: Budget = Budget()
    objective: Objective | None = None  # None: val/traj, unless there are objectives
    objectives: tuple[Objective, ...] = ()  # several in place of one
    resources: Resources = Resources()
    searcher: Method = TPE()
    scheduler: Annotated[ASHA | Promotion | NoScheduler, Field(discriminator="kind")] = ASHA()
    guards: tuple[Guard, ...] = ()
    audit: float = Field(0.0, ge=0, le=1)  # the share of stopped trials that run on, to be judged
    retries: int = Field(1, ge=0)  # of a trial whose process died or raised
    storage: Annotated[str, AfterValidator(_without_password)] | None = None  # None: a journal file
    training: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Parameter] = Field(min_length=1)
    start: tuple[dict[str, Scalar], ...] = ()  # points tried first
    warm_start: tuple[Path, ...] = ()  # experiments of earlier searches to learn from

    @model_validator(mode="after")
    def _one_or_several(self) -> "Study":
        named = [objective.metric for objective in self.objectives]
        if self.objective is not None and named:
            raise ValueError("give objective for one or objectives for several, not both")
        if len(named) == 1:
            raise ValueError("objectives are several: a single one is given as objective")
        if len(set(named)) < len(named):
            raise ValueError("objectives must be of different metrics")
        return self

    @model_validator(mode="after")
    def _searcher_fits(self) -> "Study":
        fault = None
        # A space whose conditions are at fault has no points to count; `check` says so.
        if isinstance(self.searcher, Grid) and not conditions.faults(self.space, {}):
            fault = self.searcher.fault(self.space, self.trials - len(self.start))
        elif isinstance(self.searcher, CMAES):
            fault = self.searcher.fault(self.space, len(self.goals))
        if self.warm_start and isinstance(self.searcher, Random | QMC | Grid):
            fault = (
                f"{self.searcher.kind} learns nothing from the searches of warm_start. Take tpe, "
                "gp, nsga2 or cmaes, or leave warm_start out"
            )
        if fault is not None:
            raise ValueError(fault)
        return self

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives, one or several."""
        return self.objectives or (self.objective or Objective(),)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What every epoch that counts must keep."""
        return tuple(dict.fromkeys(limit for goal in self.goals for limit in goal.subject_to))

    @property
    def needed(self) -> frozenset[str]:
        """The metrics without which a report cannot be judged."""
        objectives = {goal.metric for goal in (*self.goals, *self.compared)}
        return frozenset(objectives | {limit.metric for limit in self.limits})

    @property
    def compared(self) -> tuple[Objective, ...]:
        """What is compared at a rung; nothing without rungs, or while it is not said."""
        if not isinstance(self.scheduler, Rungs):
            return ()
        metric, mode = self.scheduler.metric, self.scheduler.mode
        if metric is None:
            several = isinstance(self.scheduler, Promotion)
            return self.goals if several or len(self.goals) == 1 else ()
        same = next((goal.mode for goal in self.goals if goal.metric == metric), None)
        found = mode or same
        return () if found is None else (Objective(metric=metric, mode=found),)

    @property
    def conditional(self) -> bool:
        """Whether some setting is searched in some trials alone."""
        return any(parameter.when for parameter in self.space.values())

    @property
    def corner(self) -> dict[str, Scalar]:
        """The point of the space where every setting is at its first extreme."""
        return conditions.settled(self.space, self._firsts)

    def extremes(self) -> list[dict[str, Scalar]]:
        """The corner, and from there every other extreme, one setting at a time.

        For a setting that is not searched at the corner its parents move as well.
        """
        corner = self.corner
        return [corner] + [
            conditions.settled(self.space, self._firsts | parents | {key: value})
            for key, parameter in self.space.items()
            if (parents := conditions.opening(self.space, key)) is not None
            for value in parameter.extremes[1 if key in corner else 0 :]
        ]

    @property
    def _firsts(self) -> dict[str, Scalar]:
        return {key: parameter.extremes[0] for key, parameter in self.space.items()}

    def configuration(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        """The training section with searched `values` at their dotted paths."""
        return replace(self.training, values)

    def audits(self, number: int) -> bool:
        """Whether this trial runs on where a rung or a guard would stop it."""
        return bool(np.random.default_rng([self.seed, number, 0xA0D17]).random() < self.audit)

    def planned(self, number: int) -> dict[str, Scalar] | None:
        """The point of trial `number`, where a plan says it and no start point comes first."""
        if number < len(self.start) or not isinstance(self.searcher, QMC | Grid):
            return None
        return self.searcher.point(self.space, self.seed, number - len(self.start))

    def sample(self, count: int) -> list[dict[str, Scalar]]:
        """Points of the space for showing; the searcher draws its own."""
        random = np.random.default_rng(self.seed)
        return [
            conditions.settled(
                self.space, {k: p.at(random.random()) for k, p in self.space.items()}
            )
            for _ in range(count)
        ]
