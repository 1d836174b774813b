"""The rollouts that an alignment is measured on, beside their truth.

Letters: N samples, F frames, C H W field, S states of the window, V latents' entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock import artifact
from spinlock.data import DatasetInfo, TrajectoryDataset
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
    parts = [*rolled_parts(subject, data, items, steps, window, projector, progress)]
    projected = [part.projected for part in parts if part.projected is not None]
    shown = [part.projected_truth for part in parts if part.projected_truth is not None]
    return Rolled(
        torch.cat([part.frames for part in parts]),
        torch.cat([part.truth for part in parts]),
        torch.cat(projected) if projected else None,
        torch.cat(shown) if shown else None,
    )


def rolled_parts(
    subject: Subject,
    data: TrajectoryDataset,
    items: list[int],
    steps: int,
    window: int = 0,
    projector: LatentProjector | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Rolled]:
    """As `roll`, a few items at a time: all trajectories together may be more than memory holds."""
    for first in range(0, len(items), AT_ONCE):
        part = items[first : first + AT_ONCE]
        yield _part(subject, data, part, steps, window, projector)
        if progress is not None:
            progress(first + len(part), len(items))


@torch.no_grad()
def _part(
    subject: Subject,
    data: TrajectoryDataset,
    items: list[int],
    steps: int,
    window: int,
    projector: LatentProjector | None,
) -> Rolled:
    truth, parameters = data.trajectories(items, slice(steps + 1)), data.parameters(items)
    entering = range(steps - window, steps)
    found = rollout(
        subject.model,
        data.initial(items),
        parameters,
        timesteps=steps,
        window=steps,
        tapped=entering if projector is not None else (),
    )
    if projector is None or found.taps is None:
        return Rolled(found.frames, truth, None, None)
    films = subject.model.condition(parameters)
    shown = [subject.model(truth[:, t], films).bottleneck.mean((-2, -1)) for t in entering]
    return Rolled(found.frames, truth, projector(found.taps), projector(torch.stack(shown, 1)))


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
    items = unseen(data.info, subject.training, subject.facts)
    if items is None:
        told = "The file is not the one that it was trained on: all of it may be looked at."
        return chosen(data.info, range(data.info.items), samples), told
    told = "Samples are of operators that were held out of its training."
    return chosen(data.info, items, samples), told


def unseen(
    info: DatasetInfo, training: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[int] | None:
    """The items that a training held out of its file; None if it was on another file."""
    if facts.get("data") != info.fingerprint or "data" not in training:
        return None
    config = DataConfig.model_validate({**training["data"], "path": str(info.path)})
    return split(info, config, training["seed"]).validation


def chosen(info: DatasetInfo, items: Sequence[int], samples: int) -> list[int]:
    """At most `samples` of them, evenly spread. Raises TrainingError if one alone is left."""
    found = [items[place] for place in spread(len(items), samples)]
    if len(found) < 2:
        raise TrainingError(
            f"{info.path}: one trajectory is too few to compare; give two at least."
        )
    return found
