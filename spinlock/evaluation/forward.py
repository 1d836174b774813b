"""Statistics of every tensor that a forward pass makes, by hooks on every module.

A rollout calls the same modules at every step; what is kept of each is one summary over all steps,
and the first step at which it was not finite.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spinlock.noa import Step


@dataclass(frozen=True)
class TensorStatistics:
    """`minimum` to `std` are of the finite values; NaN where there are none.

    `first_bad_step` is the step, from 1, at which a value was first NaN or infinite; 0 is before
    the first step, None is never.
    """

    name: str
    values: int
    nan: int
    inf: int
    minimum: float
    maximum: float
    mean: float
    std: float
    first_bad_step: int | None = None

    @property
    def bad(self) -> int:
        """How many values are not finite."""
        return self.nan + self.inf


def statistics(name: str, tensor: Tensor) -> TensorStatistics:
    """Of one tensor, that no step made."""
    running = _Running(name)
    running.add(tensor, 0)
    return running.result()


@contextmanager
def observed(model: nn.Module) -> Iterator[list[TensorStatistics]]:
    """While it lasts, every module's output is watched; the list is filled at its end.

    In the order in which the modules were first called. The model itself is "state".
    """
    found: list[TensorStatistics] = []
    running: dict[str, _Running] = {}
    steps = _Steps()
    handles = [model.register_forward_pre_hook(steps)]
    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(_watch(name or "state", running, steps)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    found += [each.result() for each in running.values()]


class _Steps:
    """Counts the model's calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        del module, inputs
        self.count += 1


def _watch(name: str, running: dict[str, "_Running"], steps: _Steps) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        for tensor in _tensors(output):
            running.setdefault(name, _Running(name)).add(tensor.detach(), steps.count)

    return hook


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module of the U-AFNO gives; a step's bottleneck is a module's own."""
    match output:
        case Tensor():
            yield output
        case Step():
            yield output.state
        case list() | tuple():
            for part in output:
                yield from _tensors(part)
        case _:
            raise TypeError(f"a module gave a {type(output).__name__}: no tensors to look at")


@dataclass
class _Running:
    name: str
    values: int = 0
    nan: int = 0
    inf: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    first_bad_step: int | None = None

    def add(self, tensor: Tensor, step: int) -> None:
        self.values += tensor.numel()
        values = tensor.double()
        finite = torch.isfinite(values)
        if not finite.all():
            nan = int(torch.isnan(values).sum())
            self.nan += nan
            self.inf += int((~finite).sum()) - nan
            values = values[finite]
            if self.first_bad_step is None:
                self.first_bad_step = step
        if values.numel():
            low, high = torch.aminmax(values)
            self.minimum = min(self.minimum, float(low))
            self.maximum = max(self.maximum, float(high))
            self.sums[0] += float(values.sum())
            self.sums[1] += float(values.square().sum())

    def result(self) -> TensorStatistics:
        finite = self.values - self.nan - self.inf
        if not finite:
            numbers = dict.fromkeys(("minimum", "maximum", "mean", "std"), math.nan)
        else:
            mean = self.sums[0] / finite
            variance = max(0.0, self.sums[1] / finite - mean * mean)
            numbers = {
                "minimum": self.minimum,
                "maximum": self.maximum,
                "mean": mean,
                "std": math.sqrt(variance),
            }
        return TensorStatistics(
            self.name,
            self.values,
            self.nan,
            self.inf,
            **numbers,
            first_bad_step=self.first_bad_step,
        )
