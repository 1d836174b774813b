"""The table of tasks."""

from typing import assert_never

import torch

from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.noa_task import NOATask
from spinlock.training.task import Task
from spinlock.training.vqvae_task import VQVAETask


def build_task(config: NOATraining | VQVAETraining, device: torch.device) -> Task:
    """The task that the configuration describes, its modules initialized, on `device`."""
    match config:
        case NOATraining():
            return NOATask(config, device)
        case VQVAETraining():
            return VQVAETask(config, device)
        case _:
            assert_never(config)
