"""INITIAL: what the first frame looks like, scaled by itself.

The prototype's 14 counted things on a binarised field of one channel. Left out: largest cluster
(always 1: it dilated 11 x 11), mean of the binarised field (0.5 by construction), histogram
entropy and cluster counts (no gradient), argmax of the spectrum (no gradient), Moran's I (now
the autocorrelations), parity about the grid's origin (on a periodic grid it tells only where
the origin was put), and the 28 columns of a network trained inside the VQ-VAE, which made
the target that it was then scored on. Mean and variance of the scaled frame are constants; the
scale itself says both.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.features import spectrum
from spinlock.features.fields import EPS, pool_channels
from spinlock.features.frames import CHANNEL, CROSS, Frames

MINIMUM_FRAMES = 1
_CONSTANT = ("spatial.mean", "spatial.log_variance")
_KEPT = tuple(name for name in CHANNEL if name not in _CONSTANT)
_CHANNEL = (
    "scale.log_scale",
    "scale.offset",
    "spatial.autocorrelation_sixteenth",
    "spatial.autocorrelation_eighth",
    "spatial.autocorrelation_quarter",
    *_KEPT,
)
NAMES = (
    *(f"initial.{name}.mean" for name in _CHANNEL),
    *(f"initial.{name}.max" for name in _CHANNEL),
    *(f"initial.{name}" for name in CROSS),
)


def measure(frames: Frames) -> Float[Tensor, "B n"]:
    """The features of a trajectory's first frame, named by `NAMES`."""
    first = Frames(frames.trajectory[:, :1])
    fields = first.fields
    modes = fields.modes[:, 0]
    energy = modes.sum(-1) + EPS
    correlation = spectrum.autocorrelation(modes, fields.height, fields.width)
    own = torch.stack(
        (fields.log_scale, torch.asinh(fields.offset), *(c / energy for c in correlation)), dim=-1
    )
    kept = [CHANNEL.index(name) for name in _KEPT]
    channel = torch.cat((own, first.channel[:, 0][..., kept]), dim=-1)
    return torch.cat((pool_channels(channel), first.cross[:, 0]), dim=-1)
