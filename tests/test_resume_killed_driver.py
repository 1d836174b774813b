"""A search whose driver is killed, then interrupted, ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from noa_runs import mind_interrupts
from searching import told, without_ray
from test_searcher_optuna import agree, load

from spinlock.search.events import read_events
from spinlock.search.ledger import read_ledger
from spinlock.search.space import Study

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STUDY = Study.model_validate(
    {
        "name": "rules",
        "trials": 8,
        "seed": 3,
        "resources": {"execution": "in_process", "concurrent": 1},
        "searcher": {"kind": "tpe", "startup_trials": 3},
        "guards": [{"kind": "commit_climb"}],
        "training": {"epochs": 5, "nan_above": 0.2, "climb_above": 1.0, "seconds": 0.15},
        "space": {
            "optimizer.lr": {"log_uniform": [5e-3, 0.4]},
            "loss.lambda_commit": {"log_uniform": [0.1, 2]},
        },
        "start": [{"optimizer.lr": 0.02, "loss.lambda_commit": 0.5}],
    }
)


def start(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    study = directory / "study.json"
    study.write_text(STUDY.model_dump_json())
    # With this threshold Ray's memory monitor would kill every trial, were it on.
    environment = os.environ | {"RAY_memory_usage_threshold": "0.001"}
    return subprocess.Popen(
        [sys.executable, str(HERE / "searching.py"), str(directory / "x"), str(study), *arguments],
        env=environment,
        stderr=(directory / "stderr").open("ab"),
        preexec_fn=mind_interrupts,
    )


def wait_for(driver: subprocess.Popen[bytes], log: Path, epochs: int) -> None:
    deadline = time.monotonic() + 120
    while not log.is_file() or log.read_bytes().count(b'"event":"epoch"') < epochs:
        assert driver.poll() is None, (log.parents[1] / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listening(pid: int) -> set[str]:
    """Addresses on which a process and its descendants listen."""
    found = set()
    driver = psutil.Process(pid)
    for process in [driver, *driver.children(recursive=True)]:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        found |= {
            c.laddr.ip.removeprefix("::ffff:")
            for c in connections
            if c.status == psutil.CONN_LISTEN
        }
    return found


def test_a_killed_then_interrupted_search_equals_an_undisturbed_one(tmp_path: Path) -> None:
    log = tmp_path / "x" / "events.jsonl"
    driver = start(tmp_path)
    wait_for(driver, log, 3)
    assert all(ip_address(found).is_loopback for found in listening(driver.pid))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    acknowledged = told(read_ledger(tmp_path / "x"))

    driver = start(tmp_path, "--resume")
    wait_for(driver, log, 9)
    os.kill(driver.pid, signal.SIGSTOP)  # it would be done before the second has begun
    second = start(tmp_path, "--resume")
    assert second.wait(60) != 0
    os.kill(driver.pid, signal.SIGCONT)
    assert (
        f"another driver runs this search (process {driver.pid} on "
        in (tmp_path / "stderr").read_text()
    )
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(60) == 130
    *_, last = read_events(log)
    assert last.event == "closed"
    assert last.reason == "interrupted"

    driver = start(tmp_path, "--resume")
    assert driver.wait(120) == 0, (tmp_path / "stderr").read_text()
    ledger = read_ledger(tmp_path / "x")
    undisturbed = without_ray(STUDY, tmp_path / "plain")
    assert told(ledger) == told(undisturbed)
    assert ledger.rungs == undisturbed.rungs
    assert {s.closed for s in ledger.sessions} == {None, "interrupted", "finished"}
    for number, (_, history, _) in acknowledged.items():
        assert told(ledger)[number][1].items() >= history.items()
    agree(ledger, load(tmp_path / "x"))
