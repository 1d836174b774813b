"""3x3 convolutions on the CPU with a quarter of the multiplications.

Winograd's F(4x4, 3x3): tiles of 6x6 cells that overlap by 2 are transformed, so that a convolution
becomes 36 matrix products over channels, which give 4x4 cells each. Lavin and Gray (arXiv
1509.09308), section 4.3. Transforms are matrix products too. In single precision outputs and
gradients are 3e-6 from exact in relative norm, those of a direct convolution 1e-6. From 32
channels on it is faster than oneDNN where that has 256-bit vectors; with AVX-512 oneDNN comes to
250 GFLOP/s in such a convolution and a step of the U-AFNO takes a fifth less time without this
(benchmarks/noa.py). On a GPU cuDNN chooses for itself.

Letters: B batch, C channels in, O out, H W grid, N tiles, c the 36 cells of a transformed tile.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

HELPS = torch.backends.cpu.get_cpu_capability() != "AVX512"
LEAST_CHANNELS = 32
CELLS_AT_ONCE = 4096
"""Of as many cells the tiles stay in the cache, and their products are still large."""

FORWARD_CELLS = 1024

_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

INPUT, WEIGHT, OUTPUT = (
    torch.kron(one_axis, one_axis).float()
    for one_axis in (torch.tensor(rows, dtype=torch.float64) for rows in (_B, _G, _A))
)
"""[36, 36], [36, 9] and [16, 36]: of a tile's, a kernel's and a transformed tile's cells."""


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` is for these, and faster than a direct convolution.

    On large grids only its backward is, so it does not apply there where none will follow.
    """
    height, width = x.shape[-2:]
    return (
        HELPS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and height % 4 == width % 4 == 0
        and (torch.is_grad_enabled() or height * width <= FORWARD_CELLS)
    )


def convolve(
    x: Float[Tensor, "B C H W"], weight: Float[Tensor, "O C 3 3"]
) -> Float[Tensor, "B O H W"]:
    """As `conv2d` with stride 1 and padding 1. The output lies in memory channels last."""
    y: Tensor = _Convolution.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_input, of_weight = ctx.needs_input_grad
        return (
            _convolved(gradient, weight.flip(2, 3).transpose(0, 1)) if of_input else None,
            _weight_gradient(x, gradient) if of_weight else None,
        )


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    outputs, inputs = weight.shape[:2]
    kernels = WEIGHT @ weight.permute(2, 3, 1, 0).reshape(9, -1)  # c, C O
    y = x.new_empty(batch, height, width, outputs)
    for part in _parts(x):
        tiles = _tiles(x[part]).view(36, -1, inputs)
        cells = OUTPUT @ torch.bmm(tiles, kernels.view(36, inputs, outputs)).view(36, -1)
        _quartered(y[part]).copy_(cells.view(4, 4, -1, height // 4, width // 4, outputs))
    return y.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    inputs, outputs = x.shape[1], gradient.shape[1]
    kernels = x.new_zeros(36, outputs, inputs)
    for part in _parts(x):
        cells = _quartered(gradient[part].permute(0, 2, 3, 1).contiguous()).reshape(16, -1)
        products = (OUTPUT.T @ cells).view(36, -1, outputs)
        kernels.baddbmm_(products.mT, _tiles(x[part]).view(36, -1, inputs))
    return (WEIGHT.T @ kernels.view(36, -1)).view(3, 3, outputs, inputs).permute(2, 3, 0, 1)


def _parts(x: Tensor) -> list[slice]:
    """Samples that are computed at once."""
    step = max(1, CELLS_AT_ONCE // (x.shape[-2] * x.shape[-1]))
    return [slice(first, first + step) for first in range(0, len(x), step)]


def _tiles(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "36 _"]:
    """Transformed tiles, [36, N C]: tile (i, j) covers rows 4i-1 .. 4i+4, columns likewise."""
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    sample, row, column, _ = padded.stride()
    tiles = padded.as_strided(
        (6, 6, batch, height // 4, width // 4, channels),
        (row, column, sample, 4 * row, 4 * column, 1),
    )
    return INPUT @ tiles.reshape(36, -1)


def _quartered(y: Float[Tensor, "B H W O"]) -> Float[Tensor, "4 4 B h w O"]:
    """A view by place within each 4x4 block."""
    batch, height, width, outputs = y.shape
    return y.view(batch, height // 4, 4, width // 4, 4, outputs).permute(2, 4, 0, 1, 3, 5)
