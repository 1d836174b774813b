"""SUMMARY: how a trajectory evolves, from the order of its frames.

Written dz for the change from one frame to the next, <.> for the mean over frames and cells.
Of the prototype's 110 (and 330 with mean, std and cv over realizations) these are left out:
- prediction-error ratio and difference (constants: both sides were the same set), Lyapunov
  estimates without a perturbed pair, counts, threshold crossings, first-crossing and argmax
  times (no gradient), rolling windows (18 near-duplicates);
- 60 drift columns of five invariants at three scales (38 pairs of |r| > 0.99): trend and wander
  of eight series, and the trend of each band, say the same;
- averages and fluctuations of those series: they are TEMPORAL's, once;
- lagged correlations of channel pairs, NaN for one channel: `influence`, which is then zero;
- temporal spectra by argmax: `log_frequency` and `log_bandwidth`, ratios of spectral moments
  (Longuet-Higgins 1957), which need no transform in time;
- aggregation over realizations: realizations are items of their own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.features.fields import (
    EPS,
    EPS_RATE,
    Fields,
    pool_channels,
    space_mean,
    time_mean,
    trend,
)
from spinlock.features.frames import CHANNEL, Frames
from spinlock.features.spectrum import BANDS

MINIMUM_FRAMES = 3
_RIDGE = 1e-3
_FROM_FRAME = {
    "mass": "spatial.mean",
    "log_variance": "spatial.log_variance",
    "skewness": "spatial.skewness",
    "log_gradient": "spatial.log_gradient",
    "total_variation": "spatial.total_variation",
    "log_wavenumber": "spectral.log_wavenumber",
    "entropy": "spectral.entropy",
    **{f"band_{index}": f"spectral.band_{index}" for index in range(BANDS)},
}
_SERIES = ("log_energy", *_FROM_FRAME)
_WANDERS = len(_SERIES) - BANDS  # the bands, last, have only a trend
_LAGS = {"eighth": 8, "quarter": 4, "half": 2}
_CHANNEL = (
    "scale.log_scale",
    "scale.offset",
    "dynamics.log_rate",
    "dynamics.log_rate_trend",
    "dynamics.log_temporal_share",
    "dynamics.log_frequency",
    "dynamics.log_bandwidth",
    *(f"dynamics.autocorrelation_{name}" for name in _LAGS),
    "causality.irreversibility",
    "causality.advection_x",
    "causality.advection_y",
    "causality.advection_share",
    *(f"drift.{name}.trend" for name in _SERIES),
    *(f"drift.{name}.wander" for name in _SERIES[:_WANDERS]),
)
NAMES = (
    *(f"summary.{name}.mean" for name in _CHANNEL),
    *(f"summary.{name}.max" for name in _CHANNEL),
    "summary.causality.influence.mean",
    "summary.causality.influence.max",
)


def measure(frames: Frames) -> Float[Tensor, "B n"]:
    """The features of a trajectory of at least three frames, named by `NAMES`."""
    fields = frames.fields
    columns = torch.stack(
        (
            fields.log_scale,
            torch.asinh(fields.offset),
            *_dynamics(fields),
            *_causality(fields),
        ),
        dim=-1,
    )
    channel = torch.cat((columns, _drift(frames)), dim=-1)
    return torch.cat((pool_channels(channel), _influence(frames)), dim=-1)


def _dynamics(fields: Fields) -> list[Tensor]:
    """Speed, frequency and memory; each [B, C].

    m0 = variance in time at each cell, m2 = <dz^2>, m4 = <(ddz)^2>. Of one frequency omega,
    m2/m0 = m4/m2 = 4 sin^2(omega/2): the bandwidth log(m4/m2) - log(m2/m0) is then zero.
    """
    step = fields.step
    rate = space_mean(step * step)
    log_rate = torch.log(rate + EPS_RATE)
    about = fields.z - _mean_field(fields.z)
    m0 = time_mean(space_mean(about * about)) + EPS
    m2 = time_mean(rate) + EPS_RATE
    turn = step[:, 1:] - step[:, :-1]
    m4 = time_mean(space_mean(turn * turn)) + EPS_RATE
    lags = [max(1, (fields.frames - 1) // part) for part in _LAGS.values()]
    return [
        torch.log(m2),
        trend(log_rate.transpose(1, 2).contiguous())[0],
        torch.log(m0),
        torch.log(m2 / m0),
        torch.log(m4 / m2) - torch.log(m2 / m0),
        *(time_mean(space_mean(about[:, lag:] * about[:, :-lag])) / m0 for lag in lags),
    ]


def _causality(fields: Fields) -> list[Tensor]:
    """Direction in time and in space; each [B, C].

    Irreversibility asinh <dz^3> / (<dz^2> + 1e-4)^1.5 changes sign when time is reversed.
    Advection is the velocity u, in cells per frame and inside asinh, of the least-squares fit
    dz = -u . grad z, in closed form with a ridge, and the share of <dz^2> that it explains
    (Horn and Schunck 1981 without smoothing). With central differences the fit to a wave
    sin(k(x - ct)) gives u = sin(kc) / sin(k).
    """
    step = fields.step
    square = step * step
    m2 = time_mean(space_mean(square))
    m3 = time_mean(space_mean(square * step))
    floored = m2 + 1e-4
    dx, dy = fields.differences
    # z dz/dx has no mean on a periodic grid: the gradient of the earlier frame is enough, and the
    # fit's sums over both frames differ from it only by the mean of the two structure tensors.
    bx = -time_mean(space_mean(dx[:, :-1] * step)) / 2
    by = -time_mean(space_mean(dy[:, :-1] * step)) / 2
    _, xx, yy, xy = (time_mean((j[:, 1:] + j[:, :-1]) * 0.5) for j in fields.structure)
    ridge = _RIDGE * (xx + yy) + EPS
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy.square()
    ux = (yy * bx - xy * by) / determinant
    uy = (xx * by - xy * bx) / determinant
    return [
        torch.asinh(m3 / (floored * floored.sqrt())),
        torch.asinh(ux),
        torch.asinh(uy),
        (ux * bx + uy * by) / (m2 + EPS_RATE),
    ]


def _drift(frames: Frames) -> Float[Tensor, "B C F"]:
    """Trend of every series, then wander of all but the bands.

    Energy is that of the field with its offset, <x^2> / s^2, as conservation laws have it.
    """
    fields = frames.fields
    columns = [CHANNEL.index(name) for name in _FROM_FRAME.values()]
    total = frames.channel[..., CHANNEL.index("spatial.mean")] + fields.offset[:, None]
    log_energy = torch.log(frames.variance + total.square() + EPS)
    series = torch.cat((log_energy[..., None], frames.channel[..., columns]), dim=-1)
    slope, wander = trend(series.permute(0, 2, 3, 1).contiguous())
    return torch.cat((slope, wander[..., :_WANDERS]), dim=-1)


def _influence(frames: Frames) -> Float[Tensor, "B 2"]:
    """How much better a channel's change is predicted with a second channel: mean, max of pairs.

    log of the unexplained share of <dz_i^2> by z_i alone over that by z_i and z_j, least squares
    with a ridge (Granger 1969, instantaneous in space). Zero when there is one channel.
    """
    fields = frames.fields
    if fields.channels == 1:
        return fields.z.new_zeros(fields.z.shape[0], 2)
    step, before, mean = fields.step, fields.z[:, :-1], fields.mean[:, :-1]
    total = time_mean(space_mean(step * step)) + EPS_RATE
    own = time_mean(frames.variance[:, :-1] + mean * mean) + _RIDGE
    by_own = time_mean(space_mean(step * before))
    alone = by_own * by_own / own / total
    gains = []
    for offset in range(1, fields.channels):  # channel i with channel i - offset
        covariance = _covariance_at(frames, offset)[:, :-1]
        between = time_mean(covariance + mean * mean.roll(offset, -1))
        by_other = time_mean(space_mean(step * before.roll(offset, 2)))
        other = own.roll(offset, -1)
        both = by_own * by_own * other - 2 * by_own * by_other * between + by_other * by_other * own
        together = both / (own * other - between * between) / total
        gains.append(torch.log((1 - alone + _RIDGE) / (1 - together + _RIDGE)))
    gain = torch.cat(gains, dim=-1)
    return torch.stack((gain.mean(-1), gain.amax(-1)), dim=-1)


def _covariance_at(frames: Frames, offset: int) -> Float[Tensor, "B T C"]:
    """Covariance of channel i with channel i - offset, for any offset below C."""
    opposite = frames.fields.channels - offset
    if offset <= opposite:
        return frames.covariances[offset - 1]
    return frames.covariances[opposite - 1].roll(-opposite, -1)


def _mean_field(z: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B 1 C H W"]:
    """Mean over frames at each cell, by halving: PyTorch splits a sum over an outer axis among
    threads where the batch makes it, and the digits then depend on the batch."""
    frames = z.shape[1]
    odd = []
    while z.shape[1] > 1:
        half = z.shape[1] // 2
        if z.shape[1] % 2:
            odd.append(z[:, -1:])
        z = z[:, :half] + z[:, half : 2 * half]
    for last in odd:
        z = z + last
    return z / frames
