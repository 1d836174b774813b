"""A trajectory scaled once, and the intermediates that every family of features shares.

Letters: B batch, T frames, C channels, H x W cells. Units: one cell, one frame.

Rules that hold for every feature (each has a test):
- Each channel of each trajectory is scaled once by its own mean m and standard deviation s over
  T, H, W; m and s are features themselves, and everything else is invariant under the
  field's units. `s` has two floors, 1e-6 absolute and 1e-5 of the largest |value|: what varies
  less is rounding, not structure. They are a maximum rather than an addend, so that above
  them the invariance is exact.
- A power of two near the largest |value| is divided out first. That changes no digit, and lets
  squares of any finite float32 be taken.
- Roots, logarithms and denominators have an addend, so that no value and no gradient is
  infinite or NaN for finite input: `EPS` beside the scaled variance of 1, `EPS_RATE` beside
  squares of differences in time, which are small for slow dynamics.
- Nothing looks across samples, and a sample's digits do not depend on the batch around it: sums
  run over the last, contiguous axis only, and there are no products of matrices or of complex
  numbers. PyTorch splits other sums and products by batch and threads, and rounds complex
  products at the end of a loop otherwise than within it.
- Spatial differences are periodic, as the transforms are. At walls they see the jump.

A non-finite trajectory gives NaN features: whoever calls must look.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.errors import ConfigError
from spinlock.features import spectrum

EPS = 1e-6
EPS_RATE = 1e-8
_FLOOR, _RELATIVE_FLOOR = 1e-6, 1e-5
SMALLEST_GRID = 8


class Fields:
    """The scaled trajectory and what is computed from it, each at most once."""

    def __init__(self, trajectory: Float[Tensor, "B T C H W"]) -> None:
        self.frames, self.channels, self.height, self.width = trajectory.shape[1:]
        if min(self.height, self.width) < SMALLEST_GRID:
            raise ConfigError(
                f"Features need a grid of at least {SMALLEST_GRID} x {SMALLEST_GRID} cells; "
                f"this trajectory has {self.height} x {self.width}."
            )
        half = trajectory.dtype in (torch.float16, torch.bfloat16)
        x = (trajectory.float() if half else trajectory).contiguous()
        unit = _power_of_two(x)
        x = x / unit
        mean = time_mean(space_mean(x))
        centred = x - mean[:, None, :, None, None]
        variance = time_mean(space_mean(centred * centred))
        unit = unit[:, 0, :, 0, 0]
        floor = torch.clamp(_FLOOR / unit, min=_RELATIVE_FLOOR)
        scale = torch.maximum(variance, floor.square()).sqrt()
        self.z: Float[Tensor, "B T C H W"] = centred / scale[:, None, :, None, None]
        self.offset: Float[Tensor, "B C"] = mean / scale  # m / s
        self.log_scale: Float[Tensor, "B C"] = scale.log() + unit.log()

    @cached_property
    def mean(self) -> Float[Tensor, "B T C"]:
        return space_mean(self.z)

    @cached_property
    def deviation(self) -> Float[Tensor, "B T C H W"]:
        """Each frame without its own mean."""
        return self.z - self.mean[..., None, None]

    @cached_property
    def modes(self) -> Float[Tensor, "B T C K"]:
        """The power spectrum of each frame."""
        return spectrum.power(self.deviation)

    @cached_property
    def differences(self) -> tuple[Tensor, Tensor]:
        """z(+1) - z(-1) along x and y, twice the slope per cell; each [B, T, C, H, W]."""
        z = self.z
        return z.roll(-1, -1) - z.roll(1, -1), z.roll(-1, -2) - z.roll(1, -2)

    @cached_property
    def structure(self) -> list[Tensor]:
        """`spectrum.gradient_energies` of each frame, each [B, T, C]."""
        return spectrum.gradient_energies(self.modes, self.height, self.width)

    @cached_property
    def step(self) -> Float[Tensor, "B S C H W"]:
        """The change from each frame to the next: S = T - 1 of them."""
        return self.z[:, 1:] - self.z[:, :-1]


def space_mean(x: Float[Tensor, "... H W"]) -> Float[Tensor, "..."]:
    """Mean over the grid, in two stages: one sum to a single number may be split by threads."""
    # Divided after summing: backward then divides the few numbers and not every cell.
    return x.sum(-1).sum(-1) / (x.shape[-1] * x.shape[-2])


def time_mean(x: Float[Tensor, "B T C"]) -> Float[Tensor, "B C"]:
    """Mean over frames."""
    return x.transpose(1, 2).contiguous().mean(-1)


def moment_over_time(series: Float[Tensor, "... T"]) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of series over frames."""
    mean = series.mean(-1)
    return mean, _root_mean_square(series - mean[..., None])


def trend(series: Float[Tensor, "... T"]) -> tuple[Tensor, Tensor]:
    """Least-squares slope on t from -1 to 1, and the rms about that line.

    For a line the slope is half of its change over the window. One frame has slope 0.
    """
    frames = series.shape[-1]
    t = torch.linspace(-1, 1, frames, dtype=series.dtype, device=series.device)
    t = t - t.mean()  # of one frame, linspace gives -1
    slope = (series * t).sum(-1) / (t.square().sum() + EPS)
    residual = series - series.mean(-1, keepdim=True) - slope[..., None] * t
    return slope, _root_mean_square(residual)


def pool_channels(features: Float[Tensor, "... C F"]) -> Float[Tensor, "... 2*F"]:
    """Mean and maximum over channels: as many numbers for any C. F means first, then F maxima."""
    last = features.transpose(-1, -2).contiguous()
    return torch.cat((last.mean(-1), last.amax(-1)), dim=-1)


def _root_mean_square(series: Float[Tensor, "... T"]) -> Float[Tensor, "..."]:
    """v / sqrt(v + EPS) of the mean square v: exactly 0, with slope 0, where nothing varies."""
    square = (series * series).mean(-1)
    return square / (square + EPS).sqrt()


def _power_of_two(x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B 1 C 1 1"]:
    """The power of two at or below each channel's largest |value|, at least about 1e-6."""
    with torch.no_grad():
        peak = torch.maximum(x.amax((1, 3, 4), keepdim=True), -x.amin((1, 3, 4), keepdim=True))
        peak = peak.clamp(min=_FLOOR)
        mantissa = torch.frexp(peak).mantissa
        return peak / (2 * mantissa)  # exact: mantissa is in [1/2, 1)
