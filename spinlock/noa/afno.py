"""Fourier mixing at the bottleneck: dense in channels, one weight matrix per wavenumber.

Letters: B batch, C channels, H W bottleneck grid, K kept wavenumbers.

The research prototype stored weights for `modes` x `modes` wavenumbers whether the grid had them
or not: on the 8x8 bottleneck of a 64x64 field 85 % of them could never receive a gradient, and
most of its forward time went into assembling them. Here a weight exists only for a wavenumber
that the grid has, both signs of the first axis included (a real field needs both; the prototype
kept only the positive corner).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def kept_rows(height: int, modes: int) -> list[int]:
    """Rows of `rfft2` with |wavenumber| < modes, in storage order (0, 1, .., -2, -1)."""
    return [row for row in range(height) if min(row, height - row) < modes]


def kept_columns(width: int, modes: int) -> int:
    """How many leading columns of `rfft2` have wavenumber < modes."""
    return min(modes, width // 2 + 1)


class SpectralMixing(nn.Module):
    """y(k) = W(k) x(k) for every kept wavenumber k, and zero for the others.

    Li et al., Fourier Neural Operator (arXiv 2010.08895), equation 5. `torch.fft` with
    norm="ortho", so that amplitudes do not depend on the grid's size.
    """

    def __init__(self, channels: int, height: int, width: int, modes: int) -> None:
        super().__init__()
        self.rows = kept_rows(height, modes)
        self.columns = kept_columns(width, modes)
        self.grid = (height, width)
        kept = len(self.rows) * self.columns
        # Real and imaginary parts apart: two real batched products instead of a complex one,
        # which torch runs on the CPU matrix by matrix.
        self.weight = nn.Parameter(torch.randn(2, kept, channels, channels) * (0.5 / channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        batch, channels, height, width = x.shape
        if (height, width) != self.grid:
            raise ValueError(f"built for a bottleneck of {self.grid}, given {(height, width)}")
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        whole = len(self.rows) == height and self.columns == width // 2 + 1
        kept = spectrum if whole else spectrum[:, :, self.rows, : self.columns]
        parts = torch.view_as_real(kept).permute(2, 3, 4, 0, 1)  # rows, columns, re|im, B, C
        by_mode = parts.reshape(-1, 2 * batch, channels)
        (rr, ir), (ri, ii) = (
            torch.bmm(by_mode, weight).unflatten(1, (2, batch)).unbind(1) for weight in self.weight
        )
        mixed = torch.complex(rr - ii, ri + ir)
        mixed = mixed.reshape(len(self.rows), self.columns, batch, channels).permute(2, 3, 0, 1)
        if not whole:
            padded = torch.zeros_like(spectrum)
            padded[:, :, self.rows, : self.columns] = mixed
            mixed = padded
        field: Tensor = torch.fft.irfft2(mixed, s=self.grid, norm="ortho")
        return field.to(x.dtype)


class AFNOBlock(nn.Module):
    """x + pointwise(mix(norm x)), then x + mlp(norm x): one spectral and one channel update.

    Named for the Adaptive Fourier Neural Operator (arXiv 2111.13587); as in the prototype the
    mixing is dense in channels, not block-diagonal.
    """

    def __init__(self, channels: int, height: int, width: int, modes: int) -> None:
        super().__init__()
        self.norm_spectral = nn.GroupNorm(1, channels)
        self.mixing = SpectralMixing(channels, height, width, modes)
        self.pointwise = _mlp(channels)
        self.norm_mlp = nn.GroupNorm(1, channels)
        self.mlp = _mlp(channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        x = x + self.pointwise(self.mixing(self.norm_spectral(x)))
        update: Tensor = self.mlp(self.norm_mlp(x))
        return x + update


def _mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1)
    )
