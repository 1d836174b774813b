"""A cluster that has no machine yet: its autoscaler brings them while trials wait."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from rich.console import Console
from searching import Regression
from test_submit import ray_files  # noqa: F401 - a fixture

from spinlock.search.cluster import DRIVER, connect
from spinlock.search.events import State
from spinlock.search.growth import Machines, _autoscaled, workers_on
from spinlock.search.secret import protect_token
from spinlock.search.space import Resources, Study
from spinlock.search.study import run

WORKERS = 2
_NONE = (  # what `ray up` fills in
    *("initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
_HEAD = "ray.head.default"  # as the provider of such machines has it


@pytest.mark.parametrize(
    ("machine", "resources", "workers"),
    [
        ({"CPU": 8.0}, {}, 8),
        ({"CPU": 8.0}, {"cpus_per_worker": 3}, 2),
        ({"CPU": 8.0, "GPU": 1.0}, {"gpus_per_worker": 1}, 1),
        ({"CPU": 8.0, "GPU": 1.0}, {"gpus_per_worker": 0.2}, 5),
        ({"CPU": 8.0, "GPU": 2.0}, {"gpus_per_worker": 0.6}, 2),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus_per_worker": 3}, 2),
        ({"CPU": 2.0, "GPU": 8.0}, {"gpus_per_worker": 1}, 2),
        ({}, {}, 0),
    ],
)
def test_a_worker_is_on_one_machine_and_its_fraction_on_one_gpu(
    machine: dict[str, float], resources: dict[str, float], workers: int
) -> None:
    assert workers_on(machine, Resources.model_validate(resources)) == workers


def test_a_cluster_grows_by_its_best_machines_up_to_its_limit() -> None:
    head = {"node:__internal_head__": 1.0, "CPU": 1.0}
    small, large = {"CPU": 2.0}, {"CPU": 16.0}
    growing = Machines((head, small), ((small, 8), (large, 2)), most=3)
    assert growing.now(lambda machine: machine["CPU"]) == 3
    assert growing.ever(lambda machine: machine["CPU"]) == 1 + 16 + 16 + 2
    assert Machines((head, small)).ever(lambda machine: machine["CPU"]) == 3
    more = Machines((head, *4 * [large]), ((large, 2),), most=2)  # begun by hand besides
    assert more.ever(lambda machine: machine["CPU"]) == 1 + 4 * 16


def test_the_file_of_an_autoscaler_is_found_by_the_ray_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scaled.yaml").write_text("max_workers: 3\n")
    words = [sys.executable, "-c", "input()", "--autoscaling-config=~/scaled.yaml"]
    with subprocess.Popen([*words, "--gcs-address=10.0.0.1:6379"], stdin=subprocess.PIPE):
        assert _autoscaled("10.0.0.1:6379") == {"max_workers": 3}
        assert _autoscaled("10.0.0.2:6379") is None
        (tmp_path / "scaled.yaml").unlink()
        assert _autoscaled("10.0.0.1:6379") is None


@pytest.fixture
def growing(
    tmp_path: Path,
    ray_files: Path,  # noqa: F811
    nodes_on_loopback: None,
) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler brings processes for machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    protect_token()  # `ray start` makes none
    worker = {"CPU": 1, "object_store_memory": 100_000_000}
    scaled = {
        **{key: [] for key in _NONE},
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 9.0,
        "cluster_name": "growing",
        "max_workers": WORKERS,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",  # its own defaults are not in Ray's wheel
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "head_node_type": _HEAD,
        "available_node_types": {
            _HEAD: {"resources": {"CPU": 0, DRIVER: 9}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "max_workers": WORKERS},
        },
    }
    (tmp_path / "scaled.json").write_text(json.dumps(scaled))
    named = {"RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"}
    with subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"),
            *("--num-cpus=0", f'--resources={{"{DRIVER}": 9}}', "--dashboard-port=0"),
            *("--dashboard-agent-listen-port=0", "--object-store-memory=100000000"),
            *(f"--autoscaling-config={tmp_path / 'scaled.json'}", f"--temp-dir={ray_files}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            **dict.fromkeys(named, FAKE_HEAD_NODE_ID),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_memory_monitor_refresh_ms": "0",
        },
    ) as head:
        try:
            deadline = time.monotonic() + 60
            while _autoscaled(address) is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            time.sleep(3)
            yield address
        finally:
            below = psutil.Process(head.pid).children(recursive=True)
            for process in (*below, head):
                process.kill()


@pytest.mark.soak
@pytest.mark.parametrize("execution", ["in_process", "ray_train"])
def test_a_search_begins_without_a_machine_and_gives_them_back(
    growing: str, tmp_path: Path, execution: str
) -> None:
    wanted = Study.model_validate(
        {
            "name": "grows",
            "trials": 4,
            "resources": {"execution": execution},
            "searcher": {"kind": "random"},
            "scheduler": {"kind": "none"},
            "training": {"epochs": 2, "seconds": 2.0},
            "space": {"optimizer.lr": {"log_uniform": [0.01, 0.1]}},
        }
    )
    told = Console(file=StringIO(), width=200)
    found = run(wanted, Regression(), tmp_path / "x", address=growing, console=told)
    assert found.finished
    assert {trial.state() for trial in found.ledger.trials.values()} == {State.COMPLETED}
    assert all(trial.attempts == 1 for trial in found.ledger.trials.values())
    assert "Up to 2 trials train at once. For 2 of them Ray has no machine" in told.file.getvalue()
    first, second = (found.ledger.trials[number] for number in (0, 1))
    assert second.reported < first.ended, "two at once"
    deadline = time.monotonic() + 300
    while True:
        with connect(wanted.resources, address=growing) as ray_:
            if ray_.waiting == WORKERS:
                break
        assert time.monotonic() < deadline
        time.sleep(5)
