"""The power spectrum of fields, and sums over it.

Letters: K = the modes of a real 2-D transform, flattened. A wavenumber k is in cycles per
shorter side of the grid, so it means the same along both axes of cells that are square.

What the prototype had wrong here: half-plane sums were not doubled, negative ky was read as
ky + H, cut-offs were in other units than the wavenumbers (`low_freq_ratio` was always 1).
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

BANDS = 5
LAGS = (1 / 16, 1 / 8, 1 / 4)  # of each side, for `autocorrelation`


def power(field: Float[Tensor, "... H W"]) -> Float[Tensor, "... K"]:
    """Energy of every mode but the mean: it adds up to the field's variance (Parseval).

    Of each conjugate pair one mode carries the energy of both and the other none, also on the
    columns kx = 0 and kx = W/2, so that turning a field by 90 degrees only permutes the modes.
    """
    height, width = field.shape[-2:]
    modes = torch.fft.rfft2(field, norm="ortho")
    # Not a complex product: where a loop over cells ends it rounds otherwise than within, and
    # the digits of a sample would depend on where it stands in the batch.
    real, imaginary = torch.view_as_real(modes).unbind(-1)
    energy = real * real + imaginary * imaginary
    return energy.flatten(-2) * _tensor(_parseval(height, width), field).flatten()


def band_energies(modes: Float[Tensor, "... K"], height: int, width: int) -> list[Tensor]:
    """Energy in `BANDS` rings, evenly spaced in log k from 1 to half the shorter side.

    On 64 x 64 they are octaves: [1,2) [2,4) [4,8) [8,16) and all from 16 on. The outer rings
    take what lies beyond them, so that the rings add up to the variance.
    """
    return _sums(modes, _bands(height, width))


def log_wavenumber_moments(modes: Float[Tensor, "... K"], height: int, width: int) -> list[Tensor]:
    """Sums of energy times log k and times (log k)^2."""
    k = _wavenumber(height, width)
    log_k = np.log(np.where(k > 0, k, 1))
    return _sums(modes, (log_k, log_k**2))


def gradient_energies(modes: Float[Tensor, "... K"], height: int, width: int) -> list[Tensor]:
    """Mean squares of differences: forward (both axes added), then the central structure tensor.

    In this order: <|D+ z|^2>, <(D_x z)^2>, <(D_y z)^2>, <D_x z D_y z>, per cell, exact for
    periodic differences (their symbols are 4 sin^2(k/2) and i sin k). The forward one sees a
    checkerboard, to which central differences are blind.
    """
    return _sums(modes, _differences(height, width))


def autocorrelation(modes: Float[Tensor, "... K"], height: int, width: int) -> list[Tensor]:
    """Spatial autocovariance at `LAGS` of each side, the mean of both axes (Wiener-Khinchin)."""
    fy, fx = _frequencies(height, width)
    weights = tuple(
        (np.cos(2 * np.pi * fx * width * lag) + np.cos(2 * np.pi * fy * height * lag)) / 2
        for lag in LAGS
    )
    return _sums(modes, weights)


def entropy(share: Float[Tensor, "... K"], height: int, width: int) -> Float[Tensor, "..."]:
    """-sum p log p over modes, as a share of its largest value: 0 one mode, 1 white."""
    count = np.count_nonzero(_parseval(height, width))
    return -(share * torch.log(share + 1e-9)).sum(-1) / float(np.log(count))


def _sums(modes: Tensor, weights: tuple[NDArray[np.float64], ...]) -> list[Tensor]:
    # Not a matrix product: with several threads its rounding depends on the batch.
    return [(modes * _tensor(weight, modes).flatten()).sum(-1) for weight in weights]


def _tensor(weight: NDArray[np.float64], like: Tensor) -> Tensor:
    # Cached as NumPy, made a tensor at each call: a tensor made under inference_mode and kept
    # could not take part in a later backward pass.
    return torch.from_numpy(weight).to(like.device, like.dtype)


def _frequencies(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies in cycles per cell along y and x of every mode, each [H, W//2 + 1]."""
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    return fy, fx


@lru_cache
def _wavenumber(height: int, width: int) -> NDArray[np.float64]:
    fy, fx = _frequencies(height, width)
    k: NDArray[np.float64] = np.hypot(fy, fx) * min(height, width)
    return k


@lru_cache
def _parseval(height: int, width: int) -> NDArray[np.float64]:
    """How often each mode's energy counts: 2, 1 where it is its own conjugate, 0; over H W."""
    fy, fx = _frequencies(height, width)
    weight = np.full_like(fy, 2.0)
    edge = (fx == 0) | (fx == 0.5)
    own = (fy == 0) | (fy == -0.5)
    weight[edge & (fy < 0)] = 0.0
    weight[edge & own] = 1.0
    weight[0, 0] = 0.0
    return weight / (height * width)


@lru_cache
def _bands(height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    edges = np.geomspace(1, min(height, width) / 2, BANDS + 1)[1:-1]
    # A mode that lies on an edge belongs above it, whatever the rounding of either.
    band = np.digitize(_wavenumber(height, width) * (1 + 1e-9), edges)
    return tuple((band == index).astype(np.float64) for index in range(BANDS))


@lru_cache
def _differences(height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    fy, fx = _frequencies(height, width)
    sy, sx = np.sin(2 * np.pi * fy), np.sin(2 * np.pi * fx)
    forward = 4 * (np.sin(np.pi * fy) ** 2 + np.sin(np.pi * fx) ** 2)
    return forward, sx**2, sy**2, sx * sy
