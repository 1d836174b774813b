"""The commands for searches on a cluster, each against a Ray that asks for a token."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from noa_runs import mind_interrupts
from ray.job_submission import JobSubmissionClient
from searching import Regression, without_ray
from test_search_launch import ROOT, SPACE
from test_submit import TOKEN, dashboard, environment, ray_files  # noqa: F401 - fixtures

from spinlock.cli import commands
from spinlock.errors import SearchError
from spinlock.search import jobs, remote
from spinlock.search.alone import alone
from spinlock.search.fetch import bring, fetch_log
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.space import Study
from spinlock.search.trainables import TRAINABLES

LONG = (  # one trial of half a minute and more, while the commands are given
    SPACE.replace("trials: 3", "trials: 1")
    .replace("epochs: 2", "epochs: 60")
    .replace("base_channels: 4", "base_channels: 24")
    .replace("batch_size: 4", "batch_size: 2")
    .replace("[4, 8]", "[2, 4]")
)


def begun(place: Path, trials: int = 2, seed: int = 0) -> Ledger:
    """A small search that has ended."""
    study = Study(
        name="small",
        trials=trials,
        seed=seed,
        training={"epochs": 2},
        space={"optimizer.lr": {"log_uniform": [0.01, 0.1]}},
        searcher={"kind": "random"},
    )
    return without_ray(study, place)


def half_of(place: Path) -> bytes:
    """Its log before the first epoch of its second trial."""
    log = (place / EVENTS).read_bytes()
    return log[: log.index(b'"trial":1,"epoch":1')].rpartition(b"\n")[0] + b"\n"


@pytest.fixture
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a small job would print on the cluster is what its command prints here."""

    def output(client: Any, command: str, package: Path | None = None) -> str:
        return subprocess.run(command, shell=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(jobs, "output", output)


def test_a_log_is_read_from_afar_as_it_stands_but_for_a_torn_line(
    tmp_path: Path, on_this_machine: None
) -> None:
    alone, pair = tmp_path / "it's one", tmp_path / "pair"
    for place in (alone, pair / "noa", pair / "vqvae"):
        begun(place)
    whole = (pair / "noa" / EVENTS).read_bytes()
    (pair / "noa" / EVENTS).write_bytes(whole + b'{"time":1.5,"ev')
    nowhere = JobSubmissionClient.__new__(JobSubmissionClient)
    logs = remote.read_logs(nowhere, [alone, pair, tmp_path / "not begun"])
    assert logs.keys() == {alone, pair / "noa", pair / "vqvae"}
    assert logs[pair / "noa"] == whole
    assert logs[alone] == (alone / EVENTS).read_bytes()
    assert len(remote.fold_log(alone, logs[alone]).trials) == 2


def test_a_command_prints_after_the_line_that_ray_writes_when_it_has_started_it(
    tmp_path: Path,
) -> None:
    log, line = tmp_path / "log", "Running entrypoint for job x: echo told\n"
    with log.open("a") as stream:  # as Ray has it: unbuffered to the command, not to itself
        stream.write(line)
        command = subprocess.Popen(jobs._ONCE_TOLD + "echo told", shell=True, stdout=stream)
        time.sleep(0.3)
        assert log.read_text() == ""
    assert command.wait(10) == 0
    assert log.read_text() == f"{line}told\n"
    assert jobs._after_entrypoint(f"setting up\n{line}told\n") == "told\n"


def test_what_is_fetched_has_its_tables_and_takes_no_others_place(tmp_path: Path) -> None:
    log = {}
    for name, seed in (("one", 0), ("other", 1)):
        begun(tmp_path / name, seed=seed)
        log[name] = (tmp_path / name / EVENTS).read_bytes()
    out = tmp_path / "out"
    half = log["one"][: log["one"].index(b'"event":"closed"')].rpartition(b"\n")[0] + b"\n"
    for part in (half, log["one"], log["one"]):
        fetch_log(part, Path("/shared/one"), out)
    assert {"events.jsonl", "trials.parquet", "epochs.parquet", "optuna.journal"} == {
        path.name for path in out.iterdir()
    }
    assert read_ledger(out).sessions[-1].closed == "finished"
    for refused in (half, log["other"]):
        with pytest.raises(SearchError, match="holds another search, or more of this one"):
            fetch_log(refused, Path("/shared/other"), out)


def test_a_killed_job_leaves_no_running_trials_and_a_session_begun_by_hand_has_them(
    tmp_path: Path,
) -> None:
    (session,) = begun(tmp_path / "x").sessions
    half = half_of(tmp_path / "x")
    for status, ended, state in (
        ("RUNNING", None, "RUNNING"),
        ("FAILED", session.opened + 60, "INTERRUPTED"),
        ("FAILED", session.opened - 60, "RUNNING"),
    ):
        job = jobs.Job("raysubmit_1", "small", tmp_path / "x", "", status, 0.0, ended)
        found = fetch_log(half, tmp_path / "x", tmp_path / "out", job=job)
        assert str(found.trials[1].state(live=found.live)) == state


def test_nothing_is_fetched_into_the_directory_of_a_search(tmp_path: Path) -> None:
    """Its driver would go on to write into a file that is no longer there."""
    begun(tmp_path / "x")
    with alone(tmp_path / "x", EVENTS):
        pass
    before = (tmp_path / "x" / EVENTS).stat().st_ino
    with pytest.raises(SearchError, match="a search was run in this directory"):
        fetch_log((tmp_path / "x" / EVENTS).read_bytes(), tmp_path / "x", tmp_path / "x")
    assert (tmp_path / "x" / EVENTS).stat().st_ino == before


def test_weights_come_by_rsync_down_where_the_storage_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, out = Path("/shared/x/exported/trial-00003-epoch-00002"), tmp_path / "best"
    assert not bring(there, None, out)
    for name, script in (
        ("copies", 'test "$1" = rsync-down && mkdir -p "$4" && echo "$2 $3" > "$4/asked"'),
        ("fails", "echo connecting; echo no route to host >&2; exit 1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ray").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "copies" / "python"))
    assert bring(there, Path("cluster.yaml"), out)
    assert (out / "asked").read_text() == f"cluster.yaml {there}/\n"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "fails" / "python"))
    with pytest.raises(SearchError, match=r"ray rsync-down cluster\.yaml .* no route to host"):
        bring(there, Path("cluster.yaml"), out)


@pytest.mark.parametrize("options", [[], ["-f"]])
def test_the_status_of_a_search_that_was_killed_says_so_and_comes_to_an_end(
    tmp_path: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun(tmp_path / "x")
    (tmp_path / "x" / EVENTS).write_bytes(half_of(tmp_path / "x"))
    monkeypatch.setitem(TRAINABLES, "regression", Regression())
    with alone(tmp_path / "x", EVENTS):
        assert read_ledger(tmp_path / "x").live
    commands()(["status", str(tmp_path / "x"), *options], standalone_mode=False)
    assert "small: 2 of 2 begun (1 completed, 1 interrupted)" in capsys.readouterr().out
    commands()(["explain", str(tmp_path / "x"), "1"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("Trial 1: INTERRUPTED")


@pytest.mark.parametrize("options", [[], ["-f"]])
def test_the_status_of_an_experiment_here_needs_no_cluster(
    tmp_path: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun(tmp_path / "x")
    with pytest.raises(SearchError, match="which this version of Spinlock does not know"):
        commands()(["status", str(tmp_path / "x")], standalone_mode=False)
    monkeypatch.setitem(TRAINABLES, "regression", Regression())
    commands()(["status", str(tmp_path / "x"), *options], standalone_mode=False)
    told = capsys.readouterr().out
    assert "small: 2 of 2 begun (2 completed)" in told
    assert ("trial 1: epoch 2/2" in told) == bool(options)


def test_a_script_that_is_not_here_cannot_be_sent() -> None:
    with pytest.raises(SearchError, match=r"launch/nosuch\.py: there is no such script here"):
        commands()(["submit", "launch/nosuch.py", "--space", "x.yaml"], standalone_mode=False)


@pytest.mark.slow
def test_a_search_is_sent_watched_stopped_resumed_and_fetched(
    tmp_path: Path,
    tiny_data: Path,
    tiny_tokenizer: Path,
    dashboard: str,  # noqa: F811
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    space, place, out = tmp_path / "tiny.yaml", tmp_path / "shared" / "x", tmp_path / "out"
    space.write_text(LONG)
    address = ("--address", dashboard)

    def begin(*words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "spinlock.cli", *map(str, words), *address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(tmp_path),
            preexec_fn=mind_interrupts,
        )

    def spinlock(*words: object, code: int = 0) -> str:
        process = begin(*words)
        told, errors = process.communicate(timeout=300)
        assert process.returncode == code, told + errors
        assert TOKEN not in told + errors
        return told if code == 0 else errors

    def wait_for_epochs(least: int) -> None:
        deadline = time.monotonic() + 120
        while not (place / EVENTS).is_file() or read_ledger(place).epochs < least:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    assert "no search was sent there" in spinlock("list")
    assert "no search of this cluster" in spinlock("stop", "tiny", code=2)
    data = ("--data", tiny_data, "--vqvae", tiny_tokenizer)
    data += ("--set", "resources.execution=in_process")
    sent = spinlock("submit", "launch/tune_noa.py", "--space", space, "--experiment", place, *data)
    job = sent.split()[1].rstrip(":")
    wait_for_epochs(2)

    row = next(line for line in spinlock("list").splitlines() if line.startswith("tiny"))
    assert "RUNNING" in row
    assert "val/traj" in row
    assert str(place) in row
    shown = spinlock("status", "tiny")
    assert "tiny: 1 of 1 begun (1 running)" in shown
    assert f"job {job}: RUNNING" in shown
    assert "trial 0: epoch 1/60" in spinlock("logs", place)
    refused = spinlock("resume", job, code=2)
    assert refused == f"Error: {place}: job {job} runs it, it is RUNNING.\n"

    live = begin("status", "-f", "x")
    assert live.stdout is not None
    while "epoch 2/60" not in live.stdout.readline():
        pass
    live.send_signal(signal.SIGINT)
    live.communicate(timeout=60)
    assert live.returncode == 130
    assert f"{place}: stopped after" in spinlock("stop", "tiny")
    assert read_ledger(place).sessions[-1].closed == "interrupted", "in good order"
    before = (place / EVENTS).read_bytes()
    assert "does not run, it is STOPPED" in spinlock("stop", "tiny", code=2)
    assert "1 interrupted" in spinlock("status", "tiny")

    again = spinlock("resume", "tiny", "--set", "retries=3").split()[1].rstrip(":")
    told = spinlock("logs", "-f", again)
    assert "best  trial" in told
    assert (place / EVENTS).read_bytes().startswith(before)
    assert read_ledger(place).sessions[-1].closed == "finished"
    assert "1 of 1 begun" in spinlock("status", "-f", place)

    told = spinlock("fetch", "tiny", "--out", out)
    assert (out / EVENTS).read_bytes() == (place / EVENTS).read_bytes()
    assert json.loads((out / "best" / "artifact.json").read_text())["kind"] == "noa", told
    assert len(spinlock("list").splitlines()) == 2, "one search, however often it was sent"
    assert not any(str(place / EVENTS) in each.info["cmdline"] for each in running()), "left behind"
    (place / EVENTS).write_bytes(before[1:])
    row = spinlock("list").splitlines()[-1]
    assert f"{place / EVENTS}:1: this line is damaged" in row, "which hides no other search"


def running() -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]]
