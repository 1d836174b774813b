"""A search as tables for any tool that reads Parquet.

trials.parquet   a row per trial: parameters, state, reason, epochs, best epoch and metrics
epochs.parquet   a row per trial and reported epoch: every metric
front.parquet    with several objectives a row per change of the Pareto front
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spinlock.files import atomic_file
from spinlock.search.events import Verdict
from spinlock.search.front import draw_front, front_history
from spinlock.search.ledger import Ledger
from spinlock.search.ranking import leaders


def write_tables(ledger: Ledger, experiment: Path) -> None:
    """Write the tables, each in one step, and with several objectives a picture of the front."""
    tables = {"trials": trials_table(ledger), "epochs": epochs_table(ledger)}
    if ledger.study.objectives:
        tables["front"] = front_table(ledger)
    for name, table in tables.items():
        with atomic_file(experiment / f"{name}.parquet") as path:
            pq.write_table(table, path)
    if ledger.study.objectives:
        draw_front(ledger, experiment / "front.png")


def trials_table(ledger: Ledger) -> pa.Table:
    """A row per trial; searched settings as `param/<path>`, the best epoch's as `best/<metric>`.

    A setting that was not searched in a trial is null there.

    `leads` marks the best trial, or with several objectives those of the Pareto front, whose
    `value` is null: they have one per objective, among `best/<metric>`.
    """
    goals, leading = ledger.study.goals, {trial.number for trial in leaders(ledger)}
    rows: list[dict[str, Any]] = []
    for trial in ledger.trials.values():
        best = trial.best(goals)
        row: dict[str, Any] = {
            "trial": trial.number,
            "state": str(trial.state(live=ledger.live)),
            **_why(trial.verdict),
            "attempts": trial.attempts,
            "epochs": trial.epochs,
            "best_epoch": best[0] if best else None,
            "value": best[1][0] if best and len(goals) == 1 else None,
            "leads": trial.number in leading,
            "suggested": trial.suggested,
            "started": trial.started,
            "ended": trial.ended,
        }
        row |= {f"param/{key}": trial.parameters.get(key) for key in ledger.study.space}
        if best is not None:
            row |= {f"best/{key}": v for key, v in trial.history[best[0]].items()}
        rows.append(row)
    return _table(rows)


def _why(verdict: Verdict | None) -> dict[str, Any]:
    """What ended a trial; empty columns while nothing has."""
    if verdict is None:
        return dict.fromkeys(("rule", "reason", "metric", "limit", "saved"))
    return {
        "rule": verdict.rule,
        "reason": verdict.sentence,
        "metric": verdict.metric,
        "limit": verdict.numbers.get("limit"),
        "saved": verdict.numbers.get("saved"),
    }


def epochs_table(ledger: Ledger) -> pa.Table:
    """A row per trial and epoch with every metric that was reported."""
    return _table(
        [
            {"trial": trial.number, "epoch": epoch, **metrics}
            for trial in ledger.trials.values()
            for epoch, metrics in trial.history.items()
        ]
    )


def front_table(ledger: Ledger) -> pa.Table:
    """A row per change of the front: when, after how many epochs, who is on it, its volume."""
    return _table(
        [
            {
                "time": front.time,
                "epochs": front.epochs,
                "trials": list(front.trials),
                "hypervolume": front.hypervolume,
            }
            for front in front_history(ledger)
        ]
    )


def _table(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """One type per column: choices that mix numbers and words are kept as words."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array([float(v) if kinds == {int, float} and v is not None else v for v in values])
