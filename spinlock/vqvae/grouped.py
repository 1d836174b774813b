"""Layers that run many small networks of different widths as one batched product.

Groups are padded to the widest one. Padding is zero on the way in and on the way out, so its
weights receive zero gradients and change nothing; each group's weights start as its own
`nn.Linear` or `nn.LayerNorm` would. Letters: B items, G groups, I and O padded widths.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def width_mask(widths: Sequence[int]) -> Bool[Tensor, "G W"]:
    """True where a group of the padded tensor has an entry of its own."""
    return torch.arange(max(widths))[None, :] < torch.tensor(widths)[:, None]


class GroupedLinear(nn.Module):
    """One affine map per group: inputs[g] -> outputs[g] entries."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        if len(inputs) != len(outputs):
            raise ValueError(f"{len(inputs)} input widths, but {len(outputs)} output widths.")
        weight = torch.zeros(len(inputs), max(inputs), max(outputs))
        bias = torch.zeros(len(inputs), max(outputs))
        for g, (i, o) in enumerate(zip(inputs, outputs, strict=True)):
            bound = 1 / math.sqrt(i)  # nn.Linear's own: Kaiming uniform with a = sqrt(5)
            weight[g, :i, :o].uniform_(-bound, bound)
            bias[g, :o].uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "B G I"]) -> Float[Tensor, "B G O"]:
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight).transpose(0, 1)


class GroupedLayerNorm(nn.Module):
    """Layer normalization of each group over its own entries; padding comes out as zero."""

    def __init__(self, widths: Sequence[int], eps: float = 1e-5) -> None:
        super().__init__()
        mask = width_mask(widths).float()
        self.weight = nn.Parameter(mask.clone())
        self.bias = nn.Parameter(torch.zeros_like(mask))
        self.eps = eps
        self.mask: Tensor
        self.widths: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("widths", mask.sum(-1, keepdim=True), persistent=False)

    def forward(self, x: Float[Tensor, "B G W"]) -> Float[Tensor, "B G W"]:
        x = x * self.mask
        centred = (x - x.sum(-1, keepdim=True) / self.widths) * self.mask
        variance = centred.square().sum(-1, keepdim=True) / self.widths
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias * self.mask
