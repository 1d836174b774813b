"""The gradient of L_traj for every TBPTT window at once, exactly, in the memory of one step.

A window of w leaves the first T - w steps without gradient. Going back from the last step, the
gradient with respect to the parameters is a sum over steps, and what a step adds depends on later
steps only: after w steps back, the sum is the gradient with window w, but for the mean's 1 / w. So
one sweep of T steps gives what T backward passes would, with one step's activations instead of w.

The documented failure is here in the open: each step back multiplies the state's gradient by a
Jacobian, so its norm grows like the power of the window (seeds/nan-gradient-diagnosis.md).

Letters: B batch, F = T + 1 frames, C H W field, S sampled states, D bottleneck width, P parameters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spinlock.noa import UAFNO

WINDOWS = (8, 16, 32, 64, 128, 256)
LARGE, EXPLODED = 1e3, 1e8
"""Norms from which on the prototype's scripts called a gradient large, and a window unstable."""
OVERFLOW = math.sqrt(torch.finfo(torch.float32).max)
"""A larger norm has squares that float32 cannot hold: the trainer skips such an update."""

_NECESSITY: tuple[tuple[float, int | None, Literal["none", "optional", "required"]], ...] = (
    (16, None, "none"),
    (32, 16, "optional"),
    (math.inf, 32, "required"),
)


@dataclass(frozen=True)
class Advice:
    """What the document's table says of a rollout; `window` is None where none is needed."""

    necessity: Literal["none", "optional", "required"]
    window: int | None


def advice(timesteps: int) -> Advice:
    """The row of the table (seeds/nan-gradient-diagnosis.md) for rollouts of `timesteps`."""
    for most, window, necessity in _NECESSITY:
        if timesteps <= most:
            return Advice(necessity, window)
    raise AssertionError("the last row has no end")


@dataclass(frozen=True)
class WindowNorms:
    """2-norms by window: entry w - 1 is that of window w. Infinite or NaN where they are.

    `parameters` are of the gradient of L_traj with respect to all parameters, as an update would
    use it, before clipping. `state` are of its gradient with respect to the state that enters the
    window.
    """

    parameters: tuple[float, ...]
    state: tuple[float, ...]

    @property
    def timesteps(self) -> int:
        return len(self.parameters)

    def of(self, window: int) -> float:
        """The gradient's norm with this window."""
        return self.parameters[window - 1]

    def marks(self, *others: int) -> tuple[int, ...]:
        """The windows to show: 8, 16, ... 256 as far as the steps go, the whole, and `others`."""
        most = self.timesteps
        return tuple(sorted({w for w in (*WINDOWS, *others, most) if w <= most}))

    @property
    def growth(self) -> float | None:
        """By how much one step further back multiplies the state's gradient, summed over frames.

        The geometric mean over the second half of the windows whose norm is finite and not zero;
        None where those are fewer than four.
        """
        usable = 0
        while usable < len(self.state) and 0 < self.state[usable] < math.inf:
            usable += 1
        if usable < 4:
            return None
        middle = usable // 2
        last, first = usable * self.state[usable - 1], middle * self.state[middle - 1]
        logs = math.log(last) - math.log(first)
        return math.exp(logs / (usable - middle))

    @property
    def first_unusable(self) -> int | None:
        """The shortest window whose update the trainer would skip; None if it would skip none."""
        return next((w for w, n in enumerate(self.parameters, 1) if not n < OVERFLOW), None)

    def longest_within(self, limit: float, most: int) -> int | None:
        """The longest of the marked windows up to `most` with a norm of at most `limit`.

        Windows below 8 are tried last, halving; None if even one step is above the limit.
        """
        tried = [w for w in self.marks(4, 2, 1) if w <= most]
        return next((w for w in reversed(tried) if self.of(w) <= limit), None)


def window_norms(
    model: UAFNO,
    frames: Float[Tensor, "B F C H W"],
    parameters: Float[Tensor, "B P"],
    target: Float[Tensor, "B T C H W"],
) -> WindowNorms:
    """Norms of the gradient of L_traj for windows 1 .. T of the rollout `frames`.

    `target[:, t]` is the truth of `frames[:, t + 1]`. The model's gradients are cleared before and
    after. What is carried back has the scale of window T: close to the end of float32's range a
    shorter window's own pass, up to T times larger, may overflow a little earlier.
    """
    whole = torch.zeros_like(frames)
    whole[:, 1:] = (2 / target.numel()) * (frames[:, 1:] - target)
    model.zero_grad()
    found: list[tuple[float, float]] = []
    for entering in backward(model, frames, parameters, whole):
        summed = total_norm(model)
        scale = target.shape[1] / (len(found) + 1)
        found.append((scale * summed, scale * norm(entering)))
    model.zero_grad()
    on_parameters, on_state = zip(*found, strict=True)
    return WindowNorms(on_parameters, on_state)


def backward(
    model: UAFNO,
    frames: Float[Tensor, "B F C H W"],
    parameters: Float[Tensor, "B P"],
    on_frames: Float[Tensor, "B F C H W"],
    on_taps: dict[int, Float[Tensor, "B D"]] | None = None,
) -> Iterator[Float[Tensor, "B C H W"]]:
    """Go back through a rollout from its last step, adding to the parameters' `.grad`.

    `on_frames` is the gradient of the loss with respect to each frame alone, `on_taps` that with
    respect to the spatial mean of the bottleneck of the step that left frame t, by t. After each
    step it yields the loss's gradient with respect to the state that entered the step: after w
    steps, `.grad` holds exactly what autograd gives with a window of w.
    """
    carried = torch.zeros_like(frames[:, 0])
    for t in reversed(range(frames.shape[1] - 1)):
        entering = frames[:, t].detach().requires_grad_()
        with torch.enable_grad():
            step = model(entering, model.condition(parameters))
            outputs, gradients = [step.state], [carried + on_frames[:, t + 1]]
            if on_taps is not None and t in on_taps:
                outputs.append(step.bottleneck.mean((-2, -1)))
                gradients.append(on_taps[t])
        torch.autograd.backward(outputs, gradients)
        assert entering.grad is not None
        carried = entering.grad
        yield carried


def total_norm(module: nn.Module) -> float:
    """The 2-norm of all gradients, in float64: it overflows only where one of them does."""
    return math.hypot(*(norm(p.grad) for p in module.parameters() if p.grad is not None))


def norm(values: Tensor) -> float:
    """The 2-norm, with squares in float64."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))
