"""`spinlock explain`: a trial's story is in the log, whatever its end was."""

import math
from pathlib import Path

import pytest
from test_scheduler_rules import book, metrics, study
from typer.testing import CliRunner

from spinlock import cli
from spinlock.errors import SearchError
from spinlock.search.events import State
from spinlock.search.ledger import read_ledger
from spinlock.search.rules import Stop
from spinlock.search.story import explain


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """Five trials, one of each end, and one that is still running."""
    found = book(tmp_path, study(start=[{"optimizer.lr": 0.01}]))
    for lr in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06):
        number = found.suggested({"optimizer.lr": lr}).number
        if number != 5:
            found.started(number)
    for epoch in range(1, 10):
        found.report(0, epoch, metrics(1 / epoch) | {"seconds": 4.0}, None)
    found.report(1, 1, metrics(5.0) | {"seconds": 3.0}, None)
    found.report(2, 1, metrics(math.nan), Stop("nonfinite", "val/traj is nan after epoch 1"))
    found.crashed(3, "ActorDiedError: killed")
    found.fail(3, "ActorDiedError: killed")
    found.report(4, 1, metrics(0.5, commit=0.1), None)
    found.report(4, 2, metrics(0.4, commit=0.3), None)
    return tmp_path


def story(directory: Path, number: int) -> str:
    return "\n".join(explain(read_ledger(directory), number))


def test_one_that_others_beat_is_told_its_place_its_limit_what_it_spared_and_how_it_looks_now(
    searched: Path,
) -> None:
    told = story(searched, 1)
    assert told.startswith("Trial 1: PRUNED by asha\nSuggested by tpe, still at random, when 0")
    assert "At rung 1 its val/traj of 5 was number 2 of the 2 that had come so far." in told
    assert "It ended: ASHA: val/traj 5 at epoch 1 is not among the best 1/3 of 2 (cut 1)." in told
    assert "That spared 8 epochs, about 24 s of its training." in told
    assert "The best is trial 0: val/traj 0.1111 at epoch 9." in told
    verdict = read_ledger(searched).trials[1].verdict
    assert verdict is not None
    assert verdict.metric == "val/traj"
    expected = {"epoch": 1, "rung": 1, "value": 5.0, "limit": 1.0, "compared": 2, "saved": 8}
    assert verdict.numbers == expected


def test_one_that_ran_through_is_told_from_its_start_point_to_its_last_epoch(
    searched: Path,
) -> None:
    told = story(searched, 0)
    assert "Start point 1 of the study: optimizer.lr 0.01." in told
    assert "In 9 reports val/traj went from 1 to 0.1111; it counts with 0.1111 at epoch 9." in told
    assert "It was the first at rung 3, where the first goes on." in told
    assert told.endswith("It ended: ran all 9 epochs.")


def test_one_that_a_guard_stopped_has_the_metric_with_its_limit_and_no_place(
    searched: Path,
) -> None:
    told = story(searched, 4)
    assert "GUARDED by commit_climb" in told
    assert "It ended: val/commit climbed to 0.3, above 2 times its minimum of 0.1" in told
    assert "rung" not in told  # it is out of them
    verdict = read_ledger(searched).trials[4].verdict
    assert verdict is not None
    assert verdict.metric == "val/commit"
    assert verdict.numbers == {"epoch": 2, "value": 0.3, "limit": 0.2, "saved": 7}


def test_failures_and_what_never_ran_are_told_as_such(searched: Path) -> None:
    assert "INFEASIBLE by nonfinite" in story(searched, 2)
    assert "Attempt 1 failed: ActorDiedError: killed." in story(searched, 3)
    assert "It reported no epoch." in story(searched, 3)
    assert story(searched, 5).endswith("It was never started.")


def test_every_end_has_its_story(searched: Path) -> None:
    states = {trial.state() for trial in read_ledger(searched).trials.values()}
    assert states == {*State} - {State.INTERRUPTED, State.PAUSED, State.PREEMPTED}
    assert all(story(searched, number) for number in range(6))


def test_a_trial_that_is_not_there_is_refused_with_those_that_are(searched: Path) -> None:
    with pytest.raises(SearchError, match=r"no trial 9; the search has 0 to 5"):
        explain(read_ledger(searched), 9)
    done = CliRunner().invoke(cli.commands(), ["explain", str(searched), "1"])
    assert done.exit_code == 0
    assert done.stdout.strip() == story(searched, 1)
