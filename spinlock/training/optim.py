"""The optimizer and its schedule."""

import math

from torch import nn
from torch.optim import AdamW

from spinlock.training.config import OptimizerConfig


def build(config: OptimizerConfig, module: nn.Module) -> AdamW:
    """AdamW over every trainable parameter of `module`."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return AdamW(trainable, lr=config.lr, weight_decay=config.weight_decay)


def set_learning_rate(
    optimizer: AdamW, config: OptimizerConfig, *, step: int, updates: int
) -> float:
    """Set and return the rate of update `step` (from 0) of `updates`.

    A function of the position in the data alone: nothing to save, no restart of the warm-up
    after a resume, and a skipped update does not stretch the schedule.
    """
    rate = config.lr * schedule_factor(config, step=step, updates=updates)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def schedule_factor(config: OptimizerConfig, *, step: int, updates: int) -> float:
    """Linear from 0.1 to 1 over the warm-up, then half a cosine to 0 at `updates`, or 1."""
    if step < config.warmup_steps:
        return 0.1 + 0.9 * step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    remaining = max(1, updates - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / remaining)
    return 0.5 * (1 + math.cos(math.pi * done))
