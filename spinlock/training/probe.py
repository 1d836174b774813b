"""A probe of a run before it begins: what a micro-batch of a few samples takes, on its device.

Nothing of the run is changed by it: the weights, the optimizer's state, the codebooks and the
random generators are what they were, so the run's numbers are those of one that was not probed.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from spinlock.training.footprint import Probe
from spinlock.training.memory import is_out_of_memory, peak_bytes, release, reset_peak
from spinlock.training.task import Task


def probe(
    task: Task,
    optimizer: Optimizer,
    device: torch.device,
    sizes: Sequence[int],
    limit: float = math.inf,
) -> list[Probe]:
    """Forward, backward and an update that changes nothing, for each of the ascending `sizes`.

    It ends before the first that does not fit, that would take more than `limit` bytes by the line
    through the two before it, or that has more samples than there are. The first is made twice,
    whatever the limit, and measured the second time, as what is allocated once comes with it. A
    compiled network is not probed: each size would be compiled anew.
    """
    found = list[Probe]()
    if any(module._compiled_call_impl is not None for module in task.modules.modules()):
        return found
    release(device)
    with _undisturbed(optimizer, device):
        for size in (*sizes[:1], *sizes):
            if size > len(task.split.train) or _expected(found, size) > limit:
                break
            reset_peak(device)
            try:
                forward, seconds = _update(task, optimizer, device, task.split.train[:size])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            finally:
                task.discard()
            found.append(Probe(size, peak_bytes(device), seconds, forward))
    release(device)
    return found[1:]


def _expected(found: Sequence[Probe], size: int) -> float:
    """Bytes of a micro-batch of so many samples, by the line through the two before it."""
    if len(found) < 2:
        return 0.0
    before, last = found[-2:]
    each = (last.peak - before.peak) / max(1, last.micro_batch - before.micro_batch)
    return last.peak + max(0.0, each) * (size - last.micro_batch)


def _update(
    task: Task, optimizer: Optimizer, device: torch.device, items: Sequence[int]
) -> tuple[float, float]:
    """Seconds of the forward, and of all."""
    begun = _now(device)
    task.modules.train()
    terms = task.terms(items)
    total = sum(weight * terms[name] for name, weight in task.weights.items() if weight)
    forward = _now(device) - begun
    if isinstance(total, torch.Tensor):
        total.backward()
    del terms, total
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()
    optimizer.step()
    return forward, _now(device) - begun


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _undisturbed(optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """A rate of 0 for AdamW, whose step with gradients of 0 then leaves every weight as it is.

    Inside, gradients stay where they are: a batch in parts holds them while it computes the next.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad()
        optimizer.state.clear()
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
