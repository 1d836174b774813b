"""The rollouts that an alignment is measured on, beside their truth.

Letters: N samples, F frames, C H W field, S states of the window, V latents' entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock import artifact
from spinlock.data import TrajectoryDataset
from spinlock.errors import ArtifactError, TrainingError
from spinlock.evaluation.probe import spread
from spinlock.evaluation.subject import Subject
from spinlock.noa import LatentProjector, rollout
from spinlock.training.batches import split
from spinlock.training.config import DataConfig
from spinlock.vqvae import Tokenizer

AT_ONCE = 8


@dataclass(frozen=True)
class Rolled:
    frames: Float[Tensor, "N F C H W"]
    truth: Float[Tensor, "N F C H W"]
    projected: Float[Tensor, "N S V"] | None
    projected_truth: Float[Tensor, "N S V"] | None


@torch.no_grad()
def roll(
    subject: Subject,
    data: TrajectoryDataset,
    items: list[int],
    steps: int,
    window: int,
    projector: LatentProjector | None,
    progress: Callable[[int, int], None] | None,
) -> Rolled:
    """Rollouts beside their truth, and what the projector makes of the window's states in both."""
    frames, truths = list[Tensor](), list[Tensor]()
    projected, projected_truth = list[Tensor](), list[Tensor]()
    entering = range(steps - window, steps)
    for first in range(0, len(items), AT_ONCE):
        part = items[first : first + AT_ONCE]
        truth, parameters = data.trajectories(part, slice(steps + 1)), data.parameters(part)
        found = rollout(
            subject.model,
            data.initial(part),
            parameters,
            timesteps=steps,
            window=steps,
            tapped=entering if projector is not None else (),
        )
        frames.append(found.frames)
        truths.append(truth)
        if projector is not None and found.taps is not None:
            films = subject.model.condition(parameters)
            shown = [subject.model(truth[:, t], films).bottleneck.mean((-2, -1)) for t in entering]
            projected.append(projector(found.taps))
            projected_truth.append(projector(torch.stack(shown, 1)))
        if progress is not None:
            progress(first + len(part), len(items))
    return Rolled(
        torch.cat(frames),
        torch.cat(truths),
        torch.cat(projected) if projected else None,
        torch.cat(projected_truth) if projected_truth else None,
    )


def steps_of(tokenizer: Tokenizer, data: TrajectoryDataset, where: Path) -> int:
    """The rollout that the tokenizer reads."""
    info = data.info
    try:
        tokenizer.expect(
            frames=tokenizer.frames or 0, channels=info.channels, grid=(info.height, info.width)
        )
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from None
    frames = tokenizer.frames or 0
    if info.frames < frames:
        raise TrainingError(
            f"{info.path}: the tokenizer reads {frames} frames; the file holds {info.frames}. Give "
            "longer trajectories, or a tokenizer of shorter ones."
        )
    return frames - 1


def projector_into(
    subject: Subject, tokenizer: Tokenizer, where: Path
) -> tuple[LatentProjector | None, list[str]]:
    """The NOA's projector, if it is one into this tokenizer's latents; else why not."""
    if not subject.projected:
        return None, ["The NOA was trained without a tokenizer: it has no projector to look at."]
    then, now = subject.facts.get("tokenizer"), artifact.weights_fingerprint(where)
    if then != now:
        return None, [
            "The NOA was aligned with another tokenizer: what its projector says is not looked at."
        ]
    return subject.projector(tokenizer), []


def held_out(subject: Subject, data: TrajectoryDataset, samples: int) -> tuple[list[int], str]:
    """Items that the NOA has not been trained on, spread over the file; and who they are."""
    info, training = data.info, subject.training
    items = list(range(info.items))
    told = "The file is not the one that it was trained on: all of it may be looked at."
    if subject.facts.get("data") == info.fingerprint and "data" in training:
        config = DataConfig.model_validate({**training["data"], "path": str(info.path)})
        items = split(info, config, training["seed"]).validation
        told = "Samples are of operators that were held out of its training."
    chosen = [items[place] for place in spread(len(items), samples)]
    if len(chosen) < 2:
        raise TrainingError(
            f"{info.path}: one trajectory is too few to compare; give two at least."
        )
    return chosen, told
