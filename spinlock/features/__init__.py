"""Features of trajectories: differentiable maps from `[B, T, C, H, W]` to numbers with names.

A name is family.category.name.channelpool, and for TEMPORAL .timepool after it. The width is the
same for every number of channels, grid and number of frames. What a feature is: `frames` for one
frame, `summary` for their order; the rules that all obey: `fields`.

A new family is a module with NAMES, MINIMUM_FRAMES and `measure`, and a line in FAMILIES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from spinlock.config import Config
from spinlock.errors import ConfigError
from spinlock.features import initial, summary, temporal
from spinlock.features.frames import Frames
from spinlock.features.standardizer import CleaningConfig, Standardizer, StandardizerConfig
from spinlock.features.temporal import FRAME_NAMES, per_frame

__all__ = [
    "FAMILIES",
    "FRAME_NAMES",
    "CleaningConfig",
    "Family",
    "FeatureConfig",
    "Standardizer",
    "StandardizerConfig",
    "extract",
    "feature_names",
    "per_frame",
]


@dataclass(frozen=True)
class Family:
    """A set of features that needs at least `minimum_frames` frames."""

    names: tuple[str, ...]
    minimum_frames: int
    measure: Callable[[Frames], Tensor]

    def extract(self, trajectory: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B n"]:
        """This family alone; `extract` shares the work when several are wanted."""
        return self.measure(Frames(trajectory))


FAMILIES = {
    "initial": Family(initial.NAMES, initial.MINIMUM_FRAMES, initial.measure),
    "summary": Family(summary.NAMES, summary.MINIMUM_FRAMES, summary.measure),
    "temporal": Family(temporal.NAMES, temporal.MINIMUM_FRAMES, temporal.measure),
}


class FeatureConfig(Config):
    """Which families, in the order of their columns, and who measured them.

    "computed" features are ours, of trajectories. "stored" ones are read from a data file as its
    own program measured them, by the names of the file's families (`spinlock check` lists them);
    no trajectory can be given them.
    """

    source: Literal["computed", "stored"] = "computed"
    families: tuple[str, ...] = Field(default=("initial", "summary", "temporal"), min_length=1)

    @model_validator(mode="after")
    def _known_and_once_each(self) -> "FeatureConfig":
        if len(set(self.families)) < len(self.families):
            raise ValueError("each family may stand only once")
        unknown = [name for name in self.families if name not in FAMILIES]
        if self.source == "computed" and unknown:
            raise ValueError(
                f"there is no family {unknown[0]!r} to compute; there are {', '.join(FAMILIES)}. "
                "Set source: stored for families that the file holds"
            )
        return self


def feature_names(config: FeatureConfig) -> tuple[str, ...]:
    """The names of the columns that `extract` gives. Stored features are named by their file."""
    if config.source == "stored":
        raise ValueError("stored features have the names that their file gives them")
    return tuple(name for family in config.families for name in FAMILIES[family].names)


def extract(trajectory: Float[Tensor, "B T C H W"], config: FeatureConfig) -> Float[Tensor, "B D"]:
    """The features of each trajectory, in the order of `feature_names`; float32 stays float32.

    Finite, with finite gradients, for every finite trajectory. Raises ConfigError for fewer frames
    than a family needs (SUMMARY: 3) and for grids below 8 x 8.
    """
    found = trajectory.shape[1]
    for name in config.families:
        needed = FAMILIES[name].minimum_frames
        if found < needed:
            raise ConfigError(
                f"The feature family '{name}' needs at least {needed} frames; this trajectory "
                f"has {found}. Use a longer window, or leave the family out."
            )
    frames = Frames(trajectory)
    return torch.cat([FAMILIES[name].measure(frames) for name in config.families], dim=-1)
