"""Recorded runs: whole learning curves by which decisions are chosen, tested and certified.

`benchmarks/record.py` makes them; what decisions look at is shipped as recorded_runs/NAME.parquet,
a row per run and epoch. Decisions are chosen on the half "choose" and tested on the half "test".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spinlock.errors import ConfigError
from spinlock.search.conditions import Space
from spinlock.search.parameter import Scalar
from spinlock.search.rules import Stop
from spinlock.search.space import Objective, Study

SHIPPED = Path(__file__).parent / "recorded_runs"
_PARAMETER = "param/"
_OF_A_RUN = ("configuration", "seed", "half")
_NO_METRICS = (*_OF_A_RUN, "epoch", "stop", "sentence")


@dataclass
class Run:
    """One configuration, trained to its end or to its own stop; `history` by epoch from 1."""

    configuration: int
    seed: int
    half: str
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    stop: Stop | None = None
    parameters: dict[str, Scalar] = field(default_factory=dict)

    def best(self, objective: Objective) -> float:
        """The best value of any epoch; infinitely bad where none is finite."""
        values = (row.get(objective.metric, math.nan) for row in self.history.values())
        costs = (objective.cost(value) for value in values if math.isfinite(value))
        return objective.cost(min(costs, default=math.inf))


@dataclass(frozen=True)
class Recorded:
    """Runs of one trainable with the objective by which they are ranked."""

    name: str
    runs: tuple[Run, ...]
    objective: Objective
    epochs: int
    space: Space
    facts: dict[str, str]

    def half(self, name: str, *, seed: int = 0) -> list[Run]:
        """Runs of one half that are comparable: another seed holds out other operators."""
        return [run for run in self.runs if run.half == name and run.seed == seed]

    @property
    def metrics(self) -> frozenset[str]:
        """What was recorded."""
        return frozenset(name for run in self.runs for row in run.history.values() for name in row)


def read_recorded(path: Path) -> Recorded:
    """The runs of a file. Raises ConfigError when it holds none."""
    try:
        table = pq.read_table(path)
        kept = {
            key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
        }
        study = Study.model_validate(json.loads(kept["study"]))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            f"{path}: no recorded runs, which benchmarks/record.py makes: {error}."
        ) from None
    runs: dict[tuple[int, int], Run] = {}
    for row in table.to_pylist():
        run = runs.setdefault(
            (row["configuration"], row["seed"]), Run(*(row[name] for name in _OF_A_RUN))
        )
        run.history[row["epoch"]] = {
            name: float(value)
            for name, value in row.items()
            if name not in _NO_METRICS and not name.startswith(_PARAMETER) and value is not None
        }
        run.parameters = {
            name.removeprefix(_PARAMETER): value
            for name, value in row.items()
            if name.startswith(_PARAMETER) and value is not None
        }
        if row.get("stop"):
            run.stop = Stop(row["stop"], row["sentence"])
    epochs = max(max(run.history) for run in runs.values())
    found = tuple(runs.values())
    return Recorded(path.stem, found, study.goals[0], epochs, study.space, kept)


@cache
def shipped(name: str) -> Recorded | None:
    """The runs that decisions about a trainable are certified by; None where none are recorded."""
    path = SHIPPED / f"{name}.parquet"
    return read_recorded(path) if path.is_file() else None


def slim(table: pa.Table, metrics: Sequence[str]) -> pa.Table:
    """A table of recorded runs with what was searched and these metrics, its metadata kept."""
    searched = [name for name in table.column_names if name.startswith(_PARAMETER)]
    kept: list[Any] = [*_NO_METRICS, *searched, *metrics, "seconds"]
    return table.select([name for name in kept if name in table.column_names])
