"""Fourier mixing at the bottleneck: dense in channels, one weight matrix per wavenumber.

Letters: B batch, C channels, H W bottleneck grid, K kept wavenumbers, P parts: real, imaginary.

The research prototype stored weights for `modes` x `modes` wavenumbers whether the grid had them
or not: on the 8x8 bottleneck of a 64x64 field 85 % of them could never receive a gradient, and
most of its forward time went into assembling them. Here a weight exists only for a wavenumber
that the grid has, both signs of the first axis included (a real field needs both; the prototype
kept only the positive corner).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MATRIX_CELLS = 256
"""Up to here a transform's matrix is small: fewer operations than moving its spectrum about."""


def kept_rows(height: int, modes: int) -> list[int]:
    """Rows of `rfft2` with |wavenumber| < modes, in storage order (0, 1, .., -2, -1)."""
    return [row for row in range(height) if min(row, height - row) < modes]


def kept_columns(width: int, modes: int) -> int:
    """How many leading columns of `rfft2` have wavenumber < modes."""
    return min(modes, width // 2 + 1)


class SpectralMixing(nn.Module):
    """y(k) = W(k) x(k) for every kept wavenumber k, and zero for the others.

    Li et al., Fourier Neural Operator (arXiv 2010.08895), equation 5. Transforms are those of
    `torch.fft` with norm="ortho", so that amplitudes do not depend on the grid's size. On grids of
    at most MATRIX_CELLS cells they are two small matrices, in whose layout nothing is moved.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, channels: int, height: int, width: int, modes: int) -> None:
        super().__init__()
        self.rows = kept_rows(height, modes)
        self.columns = kept_columns(width, modes)
        self.grid = (height, width)
        kept = len(self.rows) * self.columns
        # Real and imaginary parts apart: two real batched products instead of a complex one,
        # which torch runs on the CPU matrix by matrix.
        self.weight = nn.Parameter(torch.randn(2, kept, channels, channels) * (0.5 / channels))
        self.matrices = height * width <= MATRIX_CELLS
        if self.matrices:
            unit = torch.eye(height * width, dtype=torch.float64).unflatten(1, self.grid)
            units = torch.eye(2 * kept, dtype=torch.float64).unflatten(1, (kept, 2))
            # As torch.fft computes them, of unit vectors: not fitted, so no part of the state.
            for name, of_units in (
                ("analysis", self._spectrum(unit)),
                ("synthesis", self._field(units)),
            ):
                self.register_buffer(name, of_units.flatten(1).mT.float(), persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        batch, channels, height, width = x.shape
        if (height, width) != self.grid:
            raise ValueError(f"built for a bottleneck of {self.grid}, given {(height, width)}")
        if self.matrices:
            cells = x.flatten(2).permute(2, 0, 1).reshape(height * width, -1)
            spectrum = (self.analysis @ cells).view(-1, 2 * batch, channels)
        else:
            spectrum = self._spectrum(x).permute(2, 3, 0, 1).reshape(-1, 2 * batch, channels)
        # One product for both parts of the weights: taken one by one, their gradients would have
        # to be put together again, which costs more than the products.
        twice = spectrum.expand(2, *spectrum.shape).flatten(0, 1)
        (rr, ir), (ri, ii) = (
            part.unbind(1)
            for part in torch.bmm(twice, self.weight.flatten(0, 1))
            .view(2, -1, 2, batch, channels)
            .unbind(0)
        )
        mixed = torch.stack([rr - ii, ri + ir], 1)
        if self.matrices:
            field = self.synthesis @ mixed.view(-1, batch * channels)
            return field.view(height, width, batch, channels).permute(2, 3, 0, 1)
        return self._field(mixed.permute(2, 3, 0, 1))

    def _spectrum(self, x: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B K 2"]:
        """The kept wavenumbers of real fields."""
        spectrum = torch.fft.rfft2(x, norm="ortho")[..., self.rows, : self.columns]
        return torch.view_as_real(spectrum.flatten(-2))

    def _field(self, parts: Float[Tensor, "*B K 2"]) -> Float[Tensor, "*B H W"]:
        """Real fields of the kept wavenumbers."""
        kept = torch.view_as_complex(parts.contiguous()).unflatten(-1, (-1, self.columns))
        height, width = self.grid
        spectrum = kept.new_zeros(*kept.shape[:-2], height, width // 2 + 1)
        spectrum[..., self.rows, : self.columns] = kept
        field: Tensor = torch.fft.irfft2(spectrum, s=self.grid, norm="ortho")
        return field


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
