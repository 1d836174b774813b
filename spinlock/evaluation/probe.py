"""The rollout and the loss that gradients are measured on.

Letters: B batch, T steps, F = T + 1 frames, C H W field, P parameters.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.data import TrajectoryDataset
from spinlock.errors import TrainingError
from spinlock.evaluation.subject import Subject, data_of
from spinlock.noa import UAFNO, LatentProjector
from spinlock.training.tokenizers import Foreign, read_tokenizer
from spinlock.vqvae import Tokenizer

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Probe:
    """A model, a batch to roll it out on, and the loss by which the rollout is judged.

    `weights` are those of the terms of `spinlock.training.losses`; without tokenizer and projector
    there is "traj" alone. `source` says where initial fields and targets are from.
    """

    model: UAFNO
    initial: Float[Tensor, "B C H W"]
    parameters: Float[Tensor, "B P"]
    target: Float[Tensor, "B T C H W"]
    window: int
    weights: dict[str, float]
    source: str
    tokenizer: Tokenizer | None = None
    projector: LatentProjector | None = None
    latent_sample_steps: int = -1
    notes: tuple[str, ...] = ()
    """What is not as in the training, in sentences."""

    @property
    def timesteps(self) -> int:
        return self.target.shape[1]


def probe(
    subject: Subject,
    dataset: TrajectoryDataset | None = None,
    *,
    timesteps: int | None = None,
    window: int | None = None,
    samples: int = 4,
    synthetic: bool = False,
    seed: int = 0,
) -> Probe:
    """The subject as it is trained, or with another number of steps or another window.

    Initial fields and targets come from `dataset`, by default the one that it was trained on, so
    the steps go as far as its frames. `synthetic`, or no file, takes fields drawn at random and
    targets that stand still, for any number of steps. Raises TrainingError for more steps than
    there are frames, and for a window longer than the steps.
    """
    asked = subject.training.get("rollout", {})
    steps = timesteps or asked.get("timesteps", 32)
    own_window = asked.get("bptt_window")
    chosen = window if window is not None else min(own_window or steps, steps)
    if chosen > steps:
        raise TrainingError(f"bptt-window {chosen} is longer than the {steps} timesteps.")
    if not synthetic:
        dataset = dataset or data_of(subject.training)
    notes: list[str] = []
    if synthetic or dataset is None:
        initial, parameters = _drawn(subject, samples, seed)
        target = initial[:, None].expand(-1, steps, -1, -1, -1).contiguous()
        source = SYNTHETIC
        reason = "as asked for" if synthetic else "as there is no dataset"
        notes.append(
            f"Initial fields are drawn at random and targets stand still, {reason}: norms are of "
            "the right order, not those of training."
        )
    else:
        subject.refuse(dataset)
        initial, parameters, target = _read(dataset, samples, steps)
        source = str(dataset.info.path)
        if subject.facts.get("data") not in (None, dataset.info.fingerprint):
            notes.append("The dataset is not the one that it was trained on.")
    weights, tokenizer, left_out = _loss(subject, steps)
    return Probe(
        model=subject.model,
        initial=initial,
        parameters=parameters,
        target=target,
        window=chosen,
        weights=weights,
        source=source,
        tokenizer=tokenizer,
        projector=None if tokenizer is None else subject.projector(tokenizer),
        latent_sample_steps=_sampled(subject, chosen),
        notes=(*notes, *left_out),
    )


def spread(count: int, samples: int) -> list[int]:
    """At most `samples` of `count` items, evenly over the file: it may be sorted by regime."""
    places = np.linspace(0, count - 1, min(samples, count))
    return sorted({round(float(place)) for place in places})


def _read(dataset: TrajectoryDataset, samples: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    info = dataset.info
    if info.frames < steps + 1:
        raise TrainingError(
            f"{info.path}: {steps} timesteps need {steps + 1} frames to compare with; the file "
            f"holds {info.frames}. Give --timesteps of at most {info.frames - 1}, or --synthetic "
            "for random fields and targets that stand still."
        )
    items = spread(info.items, samples)
    target = dataset.trajectories(items, slice(1, steps + 1))
    return dataset.initial(items), dataset.parameters(items), target


def _drawn(subject: Subject, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """White noise of the mean and scale that the model was fitted to, and such parameters."""
    model, generator = subject.model, torch.Generator().manual_seed(seed)
    shape = (samples, len(subject.channels), *subject.grid)
    initial = model.mean + model.scale * torch.randn(shape, generator=generator)
    if not model.parameters_given:
        return initial, initial.new_zeros(samples, len(subject.parameters))
    drawn = torch.randn(samples, model.parameters_given, generator=generator)
    return initial, model.parameter_mean + model.parameter_scale * drawn


def _loss(subject: Subject, steps: int) -> tuple[dict[str, float], Tokenizer | None, list[str]]:
    """The weights of the terms that can be measured, what they need, and what is left out."""
    given = subject.training.get("loss", {})
    wanted = {
        key.removeprefix("lambda_"): float(value)
        for key, value in given.items()
        if key.startswith("lambda_") and value
    } or {"traj": 1.0}
    known = {"traj", "commit", "latent", "recon"}
    path = subject.training.get("tokenizer")
    tokenizer, reason = None, "they are not known here"
    if path is not None and wanted.keys() & known - {"traj"}:
        tokenizer, reason = _tokenizer(Path(path), subject, steps)
    if tokenizer is None:
        known = {"traj"}
    weights = {name: weight for name, weight in wanted.items() if name in known}
    left_out = sorted(wanted.keys() - known)
    notes = [f"Left out of the loss: {', '.join(left_out)}; {reason}."] if left_out else []
    return weights or {"traj": 1.0}, tokenizer, notes


def _tokenizer(path: Path, subject: Subject, steps: int) -> tuple[Tokenizer | None, str]:
    """The tokenizer of the training; or None, and why it cannot see this rollout."""
    if not path.exists():
        return None, f"the tokenizer is not at {path} any more"
    tokenizer = read_tokenizer(path)
    if isinstance(tokenizer, Foreign):
        return None, f"the VQ-VAE at {path} reads other features, which training alone matches"
    if tokenizer.frames != steps + 1:
        return None, f"the tokenizer reads {tokenizer.frames} frames, and {steps} steps make others"
    if not subject.projected:
        return None, "there is no projector"
    return tokenizer, "they are not known here"


def _sampled(subject: Subject, window: int) -> int:
    """The sampled steps of L_latent: the training's, or all of a window that is shorter."""
    asked = int(subject.training.get("loss", {}).get("latent_sample_steps", -1))
    return asked if asked <= window else -1
