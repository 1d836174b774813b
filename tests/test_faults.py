"""The short form of benchmarks/faults.py: the faults that take seconds to make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[1] / "benchmarks" / "faults.py"
FAULTS = ["driver_alone", "trial_process", "checkpoint", "database", "node"]


@pytest.mark.slow
def test_a_search_survives_each_fault_with_nothing_lost() -> None:
    # Only root mounts a small disk. Other tests kill a search's driver, and fill the log's disk.
    chosen = FAULTS + (["checkpoint_disk"] if os.geteuid() == 0 else [])
    only = [word for fault in chosen for word in ("--only", fault)]
    ended = subprocess.run(
        [sys.executable, str(COMMAND), "--once", *only], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split("|") for line in ended.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == len(chosen)
    for _, _, times, survived, _, most, lost, *_ in rows:
        assert (int(times), int(survived), int(lost)) == (1, 1, 0)
        assert int(most) <= 2, "the epoch under way, and that of a damaged checkpoint"
