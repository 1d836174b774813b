"""Periodic Gaussian random fields on the unit square, with the spectrum they are asked for.

Lengths are fractions of the domain, wavenumbers k cycles per domain. C channels, H x W grid,
K = W // 2 + 1 modes along the last axis of a real transform.
"""

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gaussian_amplitude(k: Array, length: float) -> Array:
    """Fourier amplitude of a field with covariance exp(-r^2 / (2 length^2)), up to a factor."""
    amplitude: Array = np.exp(-((2 * np.pi * k * length) ** 2) / 4)
    return amplitude


def wavenumbers(grid: int) -> Float64[np.ndarray, "H K"]:
    """|k| of each mode of `rfft2`, in cycles per domain."""
    ky, kx = np.fft.fftfreq(grid, 1 / grid), np.fft.rfftfreq(grid, 1 / grid)
    k: Array = np.hypot(ky[:, None], kx[None, :])
    return k


def filtered_noise(
    rng: np.random.Generator,
    channels: int,
    amplitude: Float64[np.ndarray, "H K"],
    variance: float,
) -> Float64[np.ndarray, "C H W"]:
    """White noise with its modes scaled by `amplitude`, then to the expected `variance`.

    The factor comes from the amplitudes, not from the drawn field: normalizing each draw would
    fix what should vary.
    """
    grid = len(amplitude)
    # rfft2 keeps half of the modes: those strictly inside stand for two.
    twice = np.full(amplitude.shape[1], 2.0)
    twice[0] = 1.0
    if grid % 2 == 0:
        twice[-1] = 1.0
    scale = np.sqrt(variance / ((twice * amplitude**2).sum() / grid**2))
    white = np.fft.rfft2(rng.standard_normal((channels, grid, grid)))
    field: Array = np.fft.irfft2(white * (amplitude * scale), (grid, grid))
    return field


def correlation_matrix(size: int, length: float) -> Float32[np.ndarray, "size size"]:
    """The symmetric circulant A for which A n has covariance exp(-r^2 / (2 l^2)) from white n."""
    k = np.fft.rfftfreq(size, 1 / size).astype(np.float64)
    kernel = np.fft.irfft(gaussian_amplitude(k, length), size)
    kernel /= np.linalg.norm(kernel)
    matrix = np.stack([np.roll(kernel, shift) for shift in range(size)])
    return matrix.astype(np.float32)
