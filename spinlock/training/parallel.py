"""Data parallelism over plain `torch.distributed`: under Ray Train, torchrun, or alone.

Each rank takes its share of every batch, and gradients of summed losses are added up, so the
update equals that of one process with the whole batch, to rounding. No module is wrapped: a
rollout applies the network many times per update, which hooks per forward would count wrongly.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

CPU = torch.device("cpu")


@contextmanager
def launched() -> Iterator[torch.device]:
    """This process's device; joined meanwhile with the others, if torchrun started them."""
    cuda = torch.cuda.is_available()
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield torch.device("cuda" if cuda else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else CPU
    if cuda:
        torch.cuda.set_device(device)
    # A function of this module has the world as a default argument. Imported later, say by an
    # optimizer's first step, it keeps the group and its threads, which abort a process that ends.
    from torch.distributed.nn import functional  # noqa: F401

    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class World:
    """This process among the processes of one training run; it talks from `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def current(cls, device: torch.device) -> "World":
        """The world that the launcher has set up, or this process alone.

        What is exchanged lies on `device`, where the gradients lie: NCCL knows no other.
        """
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    def share(self, indices: Sequence[int]) -> list[int]:
        """This rank's part of a batch; the parts of all ranks make up the batch."""
        return list(indices[self.rank :: self.size])

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""
        if self.size == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Add up the gradients of all ranks, in one message; a missing one counts as zero."""
        if self.size == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch._utils._flatten_dense_tensors(gradients)
        dist.all_reduce(flat)
        for gradient, summed in zip(
            gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True
        ):
            gradient.copy_(summed)
