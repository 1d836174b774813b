"""One rollout's forward pass and its gradient, as training has them before clipping.

Letters: B batch, F frames, C H W field, S sampled states, D bottleneck width.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spinlock.evaluation.forward import TensorStatistics, observed, statistics
from spinlock.evaluation.gradient_window import (
    WindowNorms,
    backward,
    norm,
    total_norm,
    window_norms,
)
from spinlock.evaluation.probe import Probe
from spinlock.noa import rollout, sampled_steps
from spinlock.training.losses import TERMS, Alignment, Prediction

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class ParameterGradient:
    """One parameter's gradient: its 2-norm, and how many of its entries are not finite."""

    name: str
    values: int
    norm: float
    nan: int
    inf: int


@dataclass(frozen=True)
class Measurement:
    """A rollout's forward pass, and its gradient.

    `reach` is the largest |value| of each frame, the initial one first. `losses` are unweighted,
    and "total". `norm` is that of the whole gradient, as the trainer clips it.
    """

    tensors: tuple[TensorStatistics, ...]
    modules: tuple[TensorStatistics, ...]
    reach: tuple[float, ...]
    losses: dict[str, float]
    gradients: tuple[ParameterGradient, ...]
    norm: float
    windows: WindowNorms

    @property
    def nonfinite(self) -> tuple[ParameterGradient, ...]:
        """The parameters with a NaN or an infinity in their gradient."""
        return tuple(each for each in self.gradients if each.nan + each.inf)

    @property
    def percentiles(self) -> dict[int, float]:
        """Of the parameters' norms; a NaN counts as the largest."""
        norms = sorted((each.norm for each in self.gradients), key=lambda x: (math.isnan(x), x))
        last = len(norms) - 1
        return {p: norms[round(p / 100 * last)] for p in PERCENTILES}


def measure(probe: Probe) -> Measurement:
    """Roll out once, with every module watched; go back once for the loss, once for all windows."""
    model, start = probe.model, probe.timesteps - probe.window
    tapped = sampled_steps(probe.latent_sample_steps, probe.window)
    with torch.no_grad(), observed(model) as modules:
        rolled = rollout(
            model,
            probe.initial,
            probe.parameters,
            timesteps=probe.timesteps,
            window=probe.timesteps,
            tapped=[start + step for step in tapped] if probe.projector is not None else (),
        )
    frames, taps = rolled.frames, rolled.taps
    trained = nn.ModuleDict({"uafno": model})
    if probe.projector is not None:
        trained["projector"] = probe.projector
    trained.zero_grad()
    losses, seen, on_frames, on_taps = _loss(probe, frames, taps)
    sources = None
    if on_taps is not None:
        sources = {start + step: on_taps[:, k] for k, step in enumerate(tapped)}
    steps = backward(model, frames, probe.parameters, on_frames, sources)
    for _ in range(probe.window):
        next(steps)
    gradients = tuple(_gradient(name, p) for name, p in trained.named_parameters())
    whole = total_norm(trained)
    trained.zero_grad()
    return Measurement(
        tensors=tuple(
            statistics(name, tensor)
            for name, tensor in {
                "initial": probe.initial,
                "parameters": probe.parameters,
                "predicted": frames[:, 1:],
                "target": probe.target,
                **seen,
            }.items()
            if tensor.numel()
        ),
        modules=tuple(modules),
        reach=tuple(frames.abs().amax((0, 2, 3, 4)).tolist()),
        losses=losses,
        gradients=gradients,
        norm=whole,
        windows=window_norms(model, frames, probe.parameters, probe.target),
    )


def _loss(
    probe: Probe, frames: Float[Tensor, "B F C H W"], taps: Float[Tensor, "B S D"] | None
) -> tuple[dict[str, float], dict[str, Tensor], Tensor, Tensor | None]:
    """Losses, the tensors that alignment makes, and the gradients on frames and on taps.

    The projector's own gradients are added to its parameters.
    """
    leaf = frames.detach().requires_grad_()
    tapped = None if taps is None else taps.detach().requires_grad_()
    alignment, seen = None, dict[str, Tensor]()
    with torch.enable_grad():
        if probe.tokenizer is not None and probe.projector is not None and tapped is not None:
            found = probe.tokenizer(leaf)
            projected = probe.projector(tapped).mean(1)
            alignment = Alignment(probe.tokenizer, found, projected)
            seen = {
                "latents": found.latents.detach(),
                "quantized": found.quantized,
                "projected": projected.detach(),
            }
        window = slice(-probe.window, None)
        prediction = Prediction(leaf[:, window], probe.target[:, window], alignment)
        terms = {name: TERMS[name](prediction) for name in probe.weights}
        total = torch.stack([probe.weights[name] * term for name, term in terms.items()]).sum()
        total.backward()
    losses = {name: float(term.detach()) for name, term in {"total": total, **terms}.items()}
    on_frames = torch.zeros_like(frames) if leaf.grad is None else leaf.grad
    return losses, seen, on_frames, None if tapped is None else tapped.grad


def _gradient(name: str, parameter: nn.Parameter) -> ParameterGradient:
    found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return ParameterGradient(
        name,
        found.numel(),
        norm(found),
        nan=int(torch.isnan(found).sum()),
        inf=int(torch.isinf(found).sum()),
    )
