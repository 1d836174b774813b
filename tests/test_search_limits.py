"""An objective subject to limits: an epoch that breaks one counts for nothing, and Optuna knows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from searching import without_ray
from test_searcher_optuna import load

from spinlock.errors import ConfigError
from spinlock.search.check import load_study
from spinlock.search.events import State
from spinlock.search.pareto import best_epoch
from spinlock.search.ranking import ranked
from spinlock.search.space import Limit, Objective, Study
from spinlock.search.summary import show_result, summary
from spinlock.search.trainables import TRAINABLES

CALM = {"metric": "val/commit", "max": 0.3}


def study(**limit: object) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 10,
            "seed": 1,
            "objective": {"metric": "val/traj", "subject_to": [CALM | limit]},
            "searcher": {"kind": "tpe", "startup_trials": 4},
            "scheduler": {"kind": "none"},
            "training": {"epochs": 4, "climb_above": 0.7},
            "space": {
                "optimizer.lr": {"log_uniform": [1e-3, 0.2]},
                "loss.lambda_commit": {"uniform": [0.1, 1.5]},
            },
        }
    )


@given(
    rows=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=9),
    limit=st.floats(0, 9),
)
def test_the_epoch_that_counts_is_the_best_of_those_that_keep_the_limit(
    rows: list[tuple[float, float]], limit: float
) -> None:
    history = {
        epoch: {"val/traj": traj, "val/commit": commit}
        for epoch, (traj, commit) in enumerate(rows, start=1)
    }
    goal = Objective(subject_to=(Limit(metric="val/commit", max=limit),))
    kept = [row["val/traj"] for row in history.values() if row["val/commit"] <= limit]
    found = best_epoch(history, [goal])
    assert (None if found is None else found[1]) == ((min(kept),) if kept else None)


def test_a_limit_is_a_bound_on_either_side_or_both() -> None:
    both = Limit(metric="x", min=1, max=2)
    assert [both.excess({"x": v}) for v in (0.5, 1.0, 1.5, 2.25)] == [0.5, 0.0, -0.5, 0.25]
    assert both.excess({}) == float("inf")
    assert str(both) == "1 <= x <= 2"
    with pytest.raises(ValueError, match="needs max, min, or both"):
        Limit(metric="x")


def test_trials_that_keep_the_limit_lead_and_optuna_is_told_by_how_much(tmp_path: Path) -> None:
    ledger = without_ray(study(), tmp_path)
    (limit,) = ledger.study.limits
    kept = {
        number
        for number, trial in ledger.trials.items()
        if any(limit.excess(row) <= 0 for row in trial.history.values())
    }
    assert 0 < len(kept) < 10, "some keep it and some do not"
    assert {trial.number for trial in ranked(ledger)} == kept
    assert all(trial.state() == State.COMPLETED for trial in ledger.trials.values())
    for number, told in enumerate(load(tmp_path)):
        least = min(limit.excess(row) for row in ledger.trials[number].history.values())
        assert told.constraints["val/commit <= 0.3"] == least
        assert told.state.name == ("COMPLETE" if number in kept else "PRUNED")


def test_where_no_trial_keeps_the_limit_there_is_no_best_and_the_summary_says_so(
    tmp_path: Path,
) -> None:
    ledger = without_ray(study(max=-1.0), tmp_path)
    assert ranked(ledger) == []
    assert "no trial has a finite epoch that keeps val/commit <= -1" in summary(ledger, epochs=4)[0]
    show_result(Console(quiet=True), ledger, ["val/commit"], epochs=4, parts={})


def test_a_limit_of_what_no_run_reports_is_refused_at_its_line(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: t\ntrials: 2\nspace:\n  optimizer.lr: {log_uniform: [1e-4, 1e-2]}\n"
        "training: {data: {path: d.h5}, tokenizer: v}\nobjective:\n  metric: val/traj\n"
        "  subject_to:\n  - {metric: val/comit, max: 0.2}\n"
    )
    with pytest.raises(ConfigError, match=r"objective\.subject_to\.0\.metric: no metric") as told:
        load_study(space, TRAINABLES["noa"])
    assert "space.yaml:9" in str(told.value)
    assert "Did you mean 'val/commit'?" in str(told.value)
