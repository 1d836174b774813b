"""Autoregression with truncated backpropagation through time (TBPTT).

Letters: B batch, F = timesteps + 1 frames, C H W field, S sampled states, D bottleneck width.

A rollout of T steps with a window of w runs T - w steps without gradient, detaches, and runs
the last w with gradient: the chain of Jacobians is w long instead of T, which is what keeps
gradients finite at T = 256 (seeds/nan-gradient-diagnosis.md).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spinlock.noa.compute import EXACT, ComputeConfig
from spinlock.noa.uafno import UAFNO, Film, Step


@dataclass(frozen=True)
class Rollout:
    """Every frame from the initial condition on, and the taps of the sampled states.

    `frames[:, -window:]` carry gradient, earlier ones do not. `taps` are bottlenecks averaged
    over space, of the states that entered the sampled steps of the window, in order.
    """

    frames: Float[Tensor, "B F C H W"]
    window: int
    taps: Float[Tensor, "B S D"] | None
    first: Float[Tensor, "B C H W"] | None = None
    """The state after the first step, with gradient, when asked for."""

    @property
    def supervised(self) -> Float[Tensor, "B w C H W"]:
        """The predicted frames at times T-w+1 .. T."""
        return self.frames[:, -self.window :]


def sampled_steps(samples: int, window: int) -> tuple[int, ...]:
    """Which of the window's `window` steps are tapped: `samples` spread evenly, -1 for all.

    The first and the last step are among them; a single sample is the last.
    Raises ValueError if the window has fewer steps than samples.
    """
    if samples == -1:
        return tuple(range(window))
    if not 1 <= samples <= window:
        raise ValueError(f"cannot sample {samples} distinct states of a window of {window}")
    if samples == 1:
        return (window - 1,)
    return tuple(round(k * (window - 1) / (samples - 1)) for k in range(samples))


def rollout(
    model: UAFNO,
    initial: Float[Tensor, "B C H W"],
    parameters: Float[Tensor, "B P"],
    *,
    timesteps: int,
    window: int,
    tapped: Collection[int] = (),
    first: bool = False,
    compute: ComputeConfig = EXACT,
) -> Rollout:
    """`timesteps` applications of `model` from `initial`, the last `window` with gradient.

    With `first` the first step has gradient too, if no further than its own state.
    """
    early, late = (compute.convolutions(warm_up=warm_up) for warm_up in (True, False))
    state, frames, taps = initial, [initial], []
    films = model.condition(parameters)
    opening = model(initial, films, late).state if first and window < timesteps else None
    if opening is not None:
        state = opening.detach()
        frames.append(state)
    with torch.no_grad():
        for _ in range(timesteps - window - (opening is not None)):
            state = model(state, films, early).state
            frames.append(state)
    take = _forgetful(model) if compute.checkpoint_steps else model
    for index in range(window):
        step = take(state, films, late)
        state = step.state
        frames.append(state)
        if index in tapped:
            taps.append(step.bottleneck.mean((-2, -1)))
    if first and opening is None:
        opening = frames[1]
    stacked = torch.stack(taps, 1) if taps else None
    return Rollout(torch.stack(frames, 1), window, stacked, opening)


def _forgetful(model: UAFNO) -> Callable[[Tensor, list[Film], torch.dtype], Step]:
    """`model`, which keeps nothing for the backward but its arguments, and is then run again."""

    def take(state: Tensor, films: list[Film], convolutions: torch.dtype) -> Step:
        step: Step = checkpoint(
            model, state, films, convolutions, use_reentrant=False, preserve_rng_state=False
        )
        return step

    return take
