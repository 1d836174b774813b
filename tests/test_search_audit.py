"""Some of the trials that would be stopped run on, and say how often a stop was wrong."""

from pathlib import Path

import pytest
from searching import Regression, told, without_ray
from test_searcher_optuna import agree, load

from spinlock.search.events import State
from spinlock.search.ledger import Ledger, read_ledger
from spinlock.search.replay import replay
from spinlock.search.space import Study
from spinlock.search.story import explain
from spinlock.search.summary import audit, summary


def study(**changes: object) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 20,
            "seed": 4,
            "searcher": {"kind": "random"},
            "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction_factor": 3},
            "guards": [{"kind": "commit_climb"}],
            "training": {"epochs": 6, "climb_above": 0.9},
            "space": {
                "optimizer.lr": {"log_uniform": [1e-3, 0.2]},
                "loss.lambda_commit": {"uniform": [0.1, 1.5]},
            },
            **changes,
        }
    )


def spared(ledger: Ledger) -> list[int]:
    return [trial.number for trial in ledger.trials.values() if trial.spared is not None]


def test_nobody_else_is_judged_differently_for_an_audit(tmp_path: Path) -> None:
    plain = told(without_ray(study(), tmp_path / "plain"))
    audited = without_ray(study(audit=0.4), tmp_path / "audited")
    ran_on = spared(audited)
    assert {audited.trials[n].spared.rule for n in ran_on} == {"asha", "commit_climb"}
    for number, trial in told(audited).items():
        if number not in ran_on:
            assert trial == plain[number]
    for number in ran_on:
        trial = audited.trials[number]
        assert (trial.state(), trial.epochs) == (State.COMPLETED, 6)
        assert trial.spared.sentence == plain[number][-1].sentence
    assert replay(tmp_path / "audited", {"regression": Regression()}).differences == []
    agree(read_ledger(tmp_path / "audited"), load(tmp_path / "audited"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_is_of_those_that_would_be_stopped(tmp_path: Path, share: float) -> None:
    ledger = without_ray(study(audit=share), tmp_path)
    stopped = [t for t in ledger.trials.values() if t.state() in (State.PRUNED, State.GUARDED)]
    assert bool(stopped) == (share == 0.0)
    assert bool(spared(ledger)) == (share == 1.0)


def test_the_summary_and_the_story_tell_what_a_spared_stop_would_have_cost(tmp_path: Path) -> None:
    ledger = without_ray(study(audit=0.4), tmp_path)
    lines, count = audit(ledger), len(spared(ledger))
    assert lines[0].startswith(f"audit  {count} stopped trials ran on, and ")
    assert len(lines) == 1 + count
    assert all(line in summary(ledger, epochs=6) for line in lines)
    story = " ".join(explain(ledger, spared(ledger)[0]))
    assert "It is audited, so it ran on where it would have ended: " in story
    assert audit(without_ray(study(), tmp_path / "plain")) == []
