"""The log is the search: whole lines or nothing, and everything else a fold of it."""

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_scheduler_rules import book, metrics, study

from spinlock.errors import SearchError
from spinlock.search.events import (
    EventLog,
    Reported,
    SessionOpened,
    State,
    StudyOpened,
    Suggested,
    Verdict,
    read_events,
)
from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.rules import Stop
from spinlock.search.tables import write_tables


def filled(directory: Path) -> Path:
    """A log with a trial of each fate, its session still open."""
    found = book(directory)
    for lr in (0.01, 0.02, 0.03, 0.04, 0.05):
        found.suggested({"optimizer.lr": lr})
    found.started(0)
    for epoch in range(1, 10):
        found.report(0, epoch, metrics(1 / epoch), None)
    found.report(1, 1, metrics(5.0), None)
    found.report(2, 1, metrics(math.nan), Stop("nonfinite", "val/traj is nan after epoch 1"))
    found.fail(3, "ActorDiedError: killed")
    found.report(4, 1, metrics(0.5), None)
    return directory / "events.jsonl"


def test_an_event_survives_its_line_with_every_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    numbers = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2, "e": 5e-324}
    verdict = Verdict(state=State.PRUNED, rule="asha", sentence="ü", numbers={"cut": 0.1})
    log.append(Reported(time=1.5, trial=0, epoch=3, metrics=numbers, verdict=verdict))
    (event,) = read_events(tmp_path / "events.jsonl")
    assert isinstance(event, Reported)
    assert math.isnan(event.metrics.pop("a"))
    assert event.metrics == {k: v for k, v in numbers.items() if k != "a"}
    assert event.verdict == verdict
    json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=pytest.fail)


def test_the_ledger_read_back_is_the_ledger_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    ledger = read_ledger(tmp_path)
    states = [str(trial.state()) for trial in ledger.trials.values()]
    assert states == ["COMPLETED", "PRUNED", "INFEASIBLE", "FAILED", "RUNNING"]
    assert ledger.rungs == {
        1: {0: (1.0,), 1: (5.0,), 4: (0.5,)},
        3: {0: (1 / 3,)},
        9: {0: (1 / 9,)},
    }
    assert [trial.number for trial in ledger.unfinished] == [4]


def test_a_torn_last_line_was_never_acknowledged(tmp_path: Path) -> None:
    """Cut at any byte of its last line, the log reads as if that line had not been begun."""
    path = filled(tmp_path)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_ledger(tmp_path).trials[4].epochs == 0


def test_a_resumed_log_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    resumed = book(tmp_path, resume=True)
    assert resumed.report(4, 1, metrics(0.25), None) is None
    ledger = read_ledger(tmp_path)
    assert ledger.trials[4].history == {1: metrics(0.25)}
    assert len(ledger.sessions) == 2


@pytest.mark.parametrize("room", [0, 1, 60, 150])
def test_a_disk_that_is_full_leaves_no_part_of_a_line_and_the_log_goes_on_after_it(
    tmp_path: Path, room: int
) -> None:
    found = book(tmp_path)
    trial = found.suggested({"optimizer.lr": 0.01})
    before = (tmp_path / EVENTS).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
    try:
        with pytest.raises(SearchError, match=r"events.jsonl: cannot be written: File too large"):
            found.report(trial.number, 1, metrics(0.5), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / EVENTS).read_bytes() == before
    assert trial.epochs == 0, "what is not on disk was not acknowledged"
    found.report(trial.number, 1, metrics(0.5), None)
    assert read_ledger(tmp_path).trials[0].history == trial.history


def test_an_interrupt_while_a_line_is_written_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands there, whole, and the book has not heard that it does."""
    found = book(tmp_path)
    trial = found.suggested({"optimizer.lr": 0.01})

    def interrupted(_: int) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.report(trial.number, 1, metrics(0.5), None)
    found.close()
    ledger = read_ledger(tmp_path)
    assert ledger.trials[0].history == {1: metrics(0.5)}
    assert ledger.sessions[-1].closed == "interrupted"


@pytest.mark.parametrize("damage", [b"", b"\n", b"x", b'{"event":"epoch"}', b"\x00" * 40])
def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path: Path, damage: bytes) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines()
    lines[4] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(SearchError, match=r"events.jsonl:5: this line is damaged"):
        read_ledger(tmp_path)


def test_a_line_that_is_lost_doubled_or_changed_is_noticed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1):
        lost = [*lines[:index], *lines[index + 1 :]]
        doubled = [*lines[: index + 1], *lines[index:]]
        other = lines[index].replace(b'"time":1', b'"time":2')
        assert other != lines[index]
        changed = [*lines[:index], other, *lines[index + 1 :]]
        for damaged in (lost, doubled, changed):
            path.write_bytes(b"".join(damaged))
            with pytest.raises(SearchError, match=r"events.jsonl:\d+: this line is damaged"):
                read_ledger(tmp_path)


def test_an_acknowledged_epoch_is_on_disk_when_the_writer_is_killed(tmp_path: Path) -> None:
    """SIGKILL right after `report` has returned: the epoch is there."""
    script = """
import os, signal, sys
from pathlib import Path
from test_scheduler_rules import book, metrics
found = book(Path(sys.argv[1]))
found.suggested({"optimizer.lr": 0.01})
found.report(0, 1, metrics(0.5), None)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert run.returncode < 0
    assert read_ledger(tmp_path).trials[0].history == {1: metrics(0.5)}


def test_the_tables_have_a_row_per_trial_and_a_row_per_epoch(tmp_path: Path) -> None:
    filled(tmp_path)
    write_tables(read_ledger(tmp_path), tmp_path)
    trials = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    epochs = pq.read_table(tmp_path / "epochs.parquet").to_pylist()
    assert [row["trial"] for row in trials] == [0, 1, 2, 3, 4]
    assert [row["param/optimizer.lr"] for row in trials] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert (trials[0]["best_epoch"], trials[0]["value"]) == (9, 1 / 9)
    assert (trials[2]["rule"], trials[2]["reason"]) == (
        "nonfinite",
        "val/traj is nan after epoch 1",
    )
    assert trials[3]["best_epoch"] is None
    assert len(epochs) == 9 + 1 + 1 + 1
    assert math.isnan(epochs[10]["val/traj"])
    assert {row["trial"] for row in epochs} == {0, 1, 2, 4}


def test_a_search_of_an_older_version_is_taken_up(tmp_path: Path) -> None:
    """Its study lacks the keys that came later; they stand with what it meant without them."""
    now = study().model_dump(mode="json")
    then = {key: value for key, value in now.items() if key != "objectives"}
    then["objective"] = {"metric": "val/traj", "mode": "min"}
    then["scheduler"] = {k: v for k, v in then["scheduler"].items() if k not in ("metric", "mode")}
    log = EventLog(tmp_path / "events.jsonl")
    log.append(StudyOpened(time=0, trainable="regression", study=then, facts={}))
    log.append(SessionOpened(time=0, host="here", pid=1, trials=64))
    log.append(Suggested(time=1, trial=0, parameters={"optimizer.lr": 0.01}))
    log.append(Reported(time=2, trial=0, epoch=1, metrics=metrics(0.5)))
    log.close()
    resumed = book(tmp_path, resume=True)
    assert resumed.ledger.rungs == {1: {0: (0.5,)}}
    assert resumed.report(0, 2, metrics(0.4), None) is None


def test_an_empty_search_has_empty_tables(tmp_path: Path) -> None:
    write_tables(book(tmp_path).ledger, tmp_path)
    assert pq.read_table(tmp_path / "trials.parquet").num_rows == 0


def test_a_directory_without_a_search_says_so(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no search has run here"):
        read_ledger(tmp_path)


def test_a_search_that_stands_is_not_begun_anew_by_mistake(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(SearchError, match=r"a search of 5 trials stands here.*--resume"):
        book(tmp_path)


def test_a_resumed_search_may_ask_for_more_trials_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path)
    more = book(tmp_path, study(trials=80, resources={"concurrent": 3}), resume=True)
    assert more.ledger.study.trials == 80
    changed = study(seed=9, scheduler={"kind": "asha", "grace_epochs": 2})
    with pytest.raises(SearchError) as error:
        book(tmp_path, changed, resume=True)
    assert "seed: was 0, is 9" in str(error.value)
    assert "scheduler.grace_epochs: was 1, is 2" in str(error.value)
    with pytest.raises(SearchError, match="5 trials have begun, more than the 2"):
        book(tmp_path, study(trials=2), resume=True)
