"""A CNO trajectory is made again, bit for bit, by another process."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from spinlock.domains.base import operator_seeds
from spinlock.domains.cno import CNOConfig
from spinlock.domains.parameters import Choice, Integer


def digests(grid: int, which: list[int]) -> dict[str, str]:
    """SHA-256 of the trajectory of each operator in `which`, by its index."""
    domain = CNOConfig(
        channels=2,
        realizations=2,
        num_layers=Integer(low=2, high=4),
        base_channels=Integer(low=8, high=8),
        kernel_size=Choice(values=(3,)),
        activation=Choice(values=("gelu", "silu")),
        dt=0.1,
    ).build()
    seeds = operator_seeds(11, which)
    unit = domain.sample(8, seed=4)[which]
    trajectories = domain.rollout(unit, seeds, domain.initial(seeds, grid), frames=3)
    return {
        str(index): hashlib.sha256(trajectory.numpy().tobytes()).hexdigest()
        for index, trajectory in zip(which, trajectories, strict=True)
    }


# Alone; those of one architecture together; alone and channels last.
@pytest.mark.parametrize("grid", [12, 16, 32])
def test_another_process_hash_seed_thread_count_batch_and_order_give_the_same_bits(grid):
    here = digests(grid, list(range(8)))
    assert len(set(here.values())) == 8
    done = subprocess.run(
        [sys.executable, __file__, "3", str(grid), *"7215043"],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    there = dict(line.split() for line in done.stdout.splitlines())
    assert there == {index: here[index] for index in "7215043"}


if __name__ == "__main__":  # the other process: threads, grid, then operators
    threads, size, *operators = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    for index, digest in digests(size, operators).items():
        print(index, digest)
