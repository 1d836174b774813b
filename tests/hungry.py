"""A regression that holds so much memory for each sample of its micro-batch, from epoch 2 on.

python hungry.py DIRECTORY STUDY.json: a search of it, in a process whose Ray has a monitor.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from searching import Regression, RegressionConfig, RegressionTrainer

from spinlock.search.checkpoints import Report
from spinlock.search.space import Study
from spinlock.search.study import run
from spinlock.training.footprint import Footprint, Probe

STEP = 700_000_000


class HungryTrainer(RegressionTrainer):
    """It waits while it holds what it took, so that a monitor can see it."""

    device = torch.device("cpu")

    def __init__(self, config: RegressionConfig) -> None:
        super().__init__(config)
        self.micro_batch = config.batch_size

    def probe(self, sizes: Sequence[int], limit: float = math.inf) -> list[Probe]:
        return [Probe(size, size * STEP, 1e-3, 1e-4) for size in sizes if size * STEP <= limit]

    def limit_micro_batch(self, most: int) -> int:
        self.micro_batch = min(self.micro_batch, most)
        return self.micro_batch

    def epochs(self) -> Iterator[Report]:
        for report in super().epochs():
            metrics = {**report.metrics, "micro_batch": float(self.micro_batch)}
            yield Report(report.epoch, metrics, report.stop)
            if report.epoch == 1:  # the first is kept: there is a checkpoint to go on from
                held = [torch.ones(STEP // 4) for _ in range(self.micro_batch - 1)]
                time.sleep(3)
                del held


class Hungry(Regression):
    name = "hungry"

    def footprint(self, config: RegressionConfig) -> Footprint:
        return Footprint({"process": 1.0}, {"sample": float(STEP)}, config.batch_size)

    def build(self, config: RegressionConfig) -> HungryTrainer:
        return HungryTrainer(config)


# A large trial and a small one beside it.
DEMAND: dict[str, Any] = {
    "name": "hungry",
    "trials": 2,
    "retries": 5,  # of a process that is killed while it starts, as on a full machine
    "resources": {"execution": "in_process", "concurrent": 2, "memory_gb_per_worker": 100},
    "scheduler": {"kind": "none"},
    "searcher": {"kind": "random"},
    "training": {"epochs": 3},
    "space": {"batch_size": {"choice": [1, 8]}},
    "start": [{"batch_size": 8}, {"batch_size": 1}],
}


if __name__ == "__main__":
    found = run(
        Study.model_validate_json(Path(sys.argv[2]).read_text()),
        Hungry(),
        Path(sys.argv[1]),
        dashboard=False,
    )
    sys.exit(0 if found.finished else 130)
