"""TEMPORAL: what each frame looks like, frame by frame.

For a tokenizer of fixed width the series are reduced to mean and population standard
deviation over frames. (The prototype pushed them through a random, never trained network.)
What depends on the order of frames is SUMMARY's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.features.fields import moment_over_time, pool_channels
from spinlock.features.frames import CHANNEL, CROSS, Frames

MINIMUM_FRAMES = 1
FRAME_NAMES = (
    *(f"temporal.{name}.mean" for name in CHANNEL),
    *(f"temporal.{name}.max" for name in CHANNEL),
    *(f"temporal.{name}" for name in CROSS),
)
NAMES = (
    *(f"{name}.time_mean" for name in FRAME_NAMES),
    *(f"{name}.time_std" for name in FRAME_NAMES),
)


def per_frame(trajectory: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T n"]:
    """The features of each frame, named by `FRAME_NAMES`.

    The scale is that of the whole trajectory, so that a decay is seen as one: a frame's
    features depend on the trajectory that it stands in.
    """
    return _series(Frames(trajectory))


def measure(frames: Frames) -> Float[Tensor, "B n"]:
    """The features of a trajectory, named by `NAMES`."""
    return torch.cat(moment_over_time(_series(frames).transpose(1, 2).contiguous()), dim=-1)


def _series(frames: Frames) -> Float[Tensor, "B T n"]:
    return torch.cat((pool_channels(frames.channel), frames.cross), dim=-1)
