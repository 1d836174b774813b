"""What can be measured on one frame; INITIAL, SUMMARY and TEMPORAL all build on it.

Of the prototype's 63 per-frame numbers these are left out: means of differences and of the
Laplacian (zero on a periodic grid), variance beside std and range beside max - min
(duplicates), percentiles, extremes and IQR (a sort, 28 % of its time, and a gradient at single
cells), argmax frequencies (no gradient; now the centroid in log k), roll-off by sorted power
(not a frequency), correlation eigenvalues (NaN gradients; now the participation ratio, which
needs none), histogram mutual information (no gradient). Its low/mid/high ratios and spectral
anisotropy were constant by a mistake of units: they are the bands and the structure tensor.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.features import spectrum
from spinlock.features.fields import EPS, Fields, space_mean

_BANDS = tuple(f"spectral.band_{index}" for index in range(spectrum.BANDS))
CHANNEL = (
    "spatial.mean",
    "spatial.log_variance",
    "spatial.skewness",
    "spatial.kurtosis",
    "spatial.log_gradient",
    "spatial.anisotropy_axis",
    "spatial.anisotropy_diagonal",
    "spatial.total_variation",
    *_BANDS,
    "spectral.log_wavenumber",
    "spectral.log_wavenumber_variance",
    "spectral.entropy",
)
CROSS = (
    "cross_channel.correlation",
    "cross_channel.absolute_correlation",
    "cross_channel.participation",
)


class Frames:
    """A trajectory's fields with what was measured on each frame, each at most once."""

    def __init__(self, trajectory: Float[Tensor, "B T C H W"]) -> None:
        self.trajectory = trajectory
        self.fields = Fields(trajectory)

    @cached_property
    def channel(self) -> Float[Tensor, "B T C F"]:
        """The features named by `CHANNEL`."""
        return _channel_features(self.fields, self.variance)

    @cached_property
    def variance(self) -> Float[Tensor, "B T C"]:
        """Variance of each channel over the cells of each frame."""
        return space_mean(self.fields.deviation * self.fields.deviation)

    @cached_property
    def covariances(self) -> list[Tensor]:
        """Covariance of each channel i with channel i - s, for offsets s = 1 .. C // 2.

        Each [B, T, C]. By offsets every pair is a product of one pass, without a C x C field.
        """
        deviation = self.fields.deviation
        return [
            space_mean(deviation * deviation.roll(offset, 2))
            for offset in range(1, self.fields.channels // 2 + 1)
        ]

    @cached_property
    def cross(self) -> Float[Tensor, "B T 3"]:
        """The features named by `CROSS`; zero when there is one channel."""
        if self.fields.channels == 1:
            return self.fields.z.new_zeros(*self.fields.z.shape[:2], len(CROSS))
        return _cross_features(self.variance, self.covariances)


def _channel_features(fields: Fields, variance: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C F"]:
    """The columns of `CHANNEL`.

    Skewness and kurtosis (excess) are inside asinh. Anisotropies are those of the structure
    tensor J, (Jxx - Jyy) / tr J (1: varies along x only) and 2 Jxy / tr J (Bigun and Granlund
    1987). Bands are log(share of the variance + 1e-4).
    """
    deviation = fields.deviation
    height, width = fields.height, fields.width
    square = deviation * deviation
    third = space_mean(square * deviation)
    fourth = space_mean(square * square)
    floored = variance + 1e-3
    forward, xx, yy, xy = fields.structure
    dx, dy = fields.differences
    trace = xx + yy + EPS
    per_energy = 1 / (variance + EPS)
    modes = fields.modes
    bands = spectrum.band_energies(modes, height, width)
    first, second = (m * per_energy for m in spectrum.log_wavenumber_moments(modes, height, width))
    energy_share = variance * per_energy
    columns = [
        fields.mean,
        torch.log(variance + EPS),
        torch.asinh(third / (floored * floored.sqrt())),
        torch.asinh(fourth / floored.square() - 3),
        torch.log(forward + EPS),
        (xx - yy) / trace,
        2 * xy / trace,
        space_mean((dx * dx + dy * dy + 4 * EPS).sqrt()) / 2,
        *(torch.log(band * per_energy + 1e-4) for band in bands),
        first,
        second - 2 * first.square() + first.square() * energy_share,
        spectrum.entropy(modes * per_energy[..., None], height, width),
    ]
    return torch.stack(columns, dim=-1)


def _cross_features(
    variance: Float[Tensor, "B T C"], covariances: list[Tensor]
) -> Float[Tensor, "B T 3"]:
    """Mean correlation r over pairs of channels, mean of sqrt(r^2 + EPS), and participation.

    The participation ratio tr(S)^2 / (C tr S^2) of the covariance S is 1 when the channels are
    equal in variance and independent, 1/C when all are copies of one.
    """
    channels = variance.shape[-1]
    std = (variance + EPS).sqrt()
    # An offset of exactly half the channels finds each of its pairs twice.
    counts = [
        channels // 2 if 2 * offset == channels else channels
        for offset in range(1, channels // 2 + 1)
    ]
    covariance = torch.cat([c[..., :n] for c, n in zip(covariances, counts, strict=True)], -1)
    product = torch.cat(
        [(std * std.roll(offset, -1))[..., :n] for offset, n in enumerate(counts, start=1)], -1
    )
    r = covariance / product
    norm = (variance * variance).sum(-1) + 2 * (covariance * covariance).sum(-1)
    trace = variance.sum(-1)
    participation = trace * trace / ((norm + EPS) * channels)
    return torch.stack((r.mean(-1), (r * r + EPS).sqrt().mean(-1), participation), dim=-1)
