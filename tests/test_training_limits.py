"""Memory that runs out and processes that share a batch: the update stays the same."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARALLEL = """
import json, os, sys
import torch
import torch.distributed as dist
from spinlock.training.config import training_config
from spinlock.training.trainer import Trainer

torch.set_num_threads(1)
if "RANK" in os.environ:
    dist.init_process_group("gloo")
trainer = Trainer(training_config(json.loads(sys.argv[1]), where="test"))
reports = [r.metrics for r in trainer.epochs()]
norms = {k: v.norm().item() for k, v in trainer.task.modules.state_dict().items()}
if os.environ.get("RANK", "0") == "0":
    print(json.dumps([reports, norms]))
"""

SQUEEZED = """
import json, resource, sys
import torch
from spinlock.training.config import training_config
from spinlock.training.trainer import Trainer

def vm(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) * 1024

torch.set_num_threads(1)
trainer = Trainer(training_config(json.loads(sys.argv[1]), where="test"))
before, room = vm("VmSize:"), float(sys.argv[2])
if room:
    resource.setrlimit(resource.RLIMIT_AS, (before + int(room), resource.RLIM_INFINITY))
report = next(trainer.epochs())
stop = report.stop and [report.stop.kind, report.stop.sentence]
print(json.dumps([report.metrics, stop, vm("VmPeak:") - before]))
"""

KEPT = """
import json
import torch
from spinlock.training.memory import release

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) // 1024

pieces = [torch.ones(2**16) for _ in range(800)]  # 200 MiB
last = torch.ones(2**16)  # above them in the heap, so that they cannot be cut off its end
before = resident()
del pieces
freed = resident()
release(torch.device("cpu"))
print(json.dumps([before - freed, freed - resident()]))
"""

STARVED = """
import json, resource, sys
import torch
from spinlock.training.config import training_config
from spinlock.training.trainer import Trainer

torch.set_num_threads(1)
trainer = Trainer(training_config(json.loads(sys.argv[1]), where="test"))
lines = open("/proc/self/status").read().splitlines()
used = int(next(x for x in lines if x.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20, resource.RLIM_INFINITY))
stop = next(trainer.epochs()).stop
print(json.dumps([stop.kind, stop.sentence]))
"""


# A limit of address space counts holes in glibc's heap, too: these have it keep none.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def start(script: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def printed(process: "subprocess.Popen[str]") -> Any:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_with_the_joined_batch(
    noa_run: dict[str, Any], tmp_path: Path
) -> None:
    document = json.dumps(noa_run)
    (alone,) = [printed(start(PARALLEL, document))]
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    local = {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [start(PARALLEL, document, RANK=str(rank), **store, **local) for rank in (0, 1)]
    together = printed(ranks[0])
    ranks[1].communicate(timeout=60)
    for one, two in zip(alone[0], together[0], strict=True):
        for name in one.keys() - {"seconds", "peak_memory_bytes"}:
            assert two[name] == pytest.approx(one[name], rel=2e-3), name
    assert together[1] == pytest.approx(alone[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space, as Linux can")
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_gives_the_same_update(
    noa_run: dict[str, Any],
) -> None:
    large = json.dumps({**noa_run, "epochs": 1, "model": {**noa_run["model"], "base_channels": 96}})
    roomy, _, needed = printed(start(SQUEEZED, large, "0", **GIVE_BACK))
    assert roomy["micro_batch"] == 8
    # A native library may die of a failed allocation of its own, which is not for us to mend.
    for share in (0.6, 0.7, 0.5, 0.8):
        process = start(SQUEEZED, large, str(share * needed), **GIVE_BACK)
        out, err = process.communicate(timeout=300)
        if process.returncode == -signal.SIGSEGV:
            continue
        assert process.returncode == 0, err
        tight, stopped, _ = json.loads(out.splitlines()[-1])
        if stopped is None and tight["micro_batch"] < 8:
            break
    assert stopped is None
    assert tight["micro_batch"] < 8
    for name in ("train/total", "val/traj", "val/commit", "gradient_norm"):
        assert tight[name] == pytest.approx(roomy[name], rel=1e-3), name


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_a_failed_attempt_leaves_in_the_heap_is_given_back() -> None:
    keeps = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
    by_itself, released = printed(start(KEPT, **keeps))
    assert by_itself < 20
    assert released > 180


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space, as Linux can")
def test_one_sample_that_does_not_fit_ends_the_run_with_a_reason_and_no_exception(
    noa_run: dict[str, Any],
) -> None:
    large = {**noa_run, "epochs": 1, "model": {**noa_run["model"], "base_channels": 128}}
    for megabytes in ("24", "32", "40"):
        process = start(STARVED, json.dumps(large), megabytes, **GIVE_BACK)
        out, err = process.communicate(timeout=300)
        if process.returncode != -signal.SIGSEGV:  # a native library's own death, as above
            break
    assert process.returncode == 0, err
    stopped = json.loads(out.splitlines()[-1])
    assert stopped[0] == "memory"
    assert "a single sample does not fit into memory: " in stopped[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
