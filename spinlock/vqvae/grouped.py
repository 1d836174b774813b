"""Layers that are many small networks of different widths, run as a few batched products.

They read and give rows, and multiply spans (`spans.py`): one product for each of at most
`MOST_SPANS` spans, however many groups there are. Padding is zero, so its weights receive zero
gradients and change nothing; each group's weights start as its own `nn.Linear` or `nn.LayerNorm`
would. Letters: B items, V and W the groups' inputs and outputs added up.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spinlock.vqvae.kernels import STEPS, GroupedAffine, GroupedHidden, GroupedNorm
from spinlock.vqvae.spans import Spans, partition


class Affine(nn.Module):
    """Weights of one affine map per group, inputs[g] -> outputs[g] entries."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        if len(inputs) != len(outputs):
            raise ValueError(f"{len(inputs)} input widths, but {len(outputs)} output widths.")
        weight = torch.zeros(len(inputs), max(outputs), max(inputs))
        bias = torch.zeros(len(inputs), max(outputs))
        for g, (i, o) in enumerate(zip(inputs, outputs, strict=True)):
            bound = 1 / math.sqrt(i)  # nn.Linear's own: Kaiming uniform with a = sqrt(5)
            weight[g, :o, :i].uniform_(-bound, bound)
            bias[g, :o].uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)


class GroupedLinear(nn.Module):
    """One affine map per group."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.affine = Affine(inputs, outputs)
        counts = partition([i * o for i, o in zip(inputs, outputs, strict=True)])
        self.inside, self.outside = Spans(inputs, counts), Spans(outputs, counts)

    def forward(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "W B"]:
        out: Tensor = GroupedAffine.apply(  # type: ignore[no-untyped-call]
            rows, self.affine.weight, self.affine.bias, self.inside, self.outside
        )
        return out


class GroupedMLP(nn.Module):
    """One network per group: affine, ReLU, dropout, affine.

    The dropout probability is kept to one in `STEPS`.
    """

    def __init__(
        self, inputs: Sequence[int], hidden: int, outputs: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        width = [hidden] * len(inputs)
        self.first, self.second = Affine(inputs, width), Affine(width, outputs)
        counts = partition([i + o for i, o in zip(inputs, outputs, strict=True)])
        self.inside, self.outside = Spans(inputs, counts, bias=True), Spans(outputs, counts)
        self.dropped = round(dropout * STEPS)

    def forward(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "W B"]:
        out: Tensor = GroupedHidden.apply(  # type: ignore[no-untyped-call]
            rows,
            self.first.weight,
            self.first.bias,
            self.second.weight,
            self.second.bias,
            self.inside,
            self.outside,
            self.dropped if self.training else 0,
        )
        return out


class GroupedLayerNorm(nn.Module):
    """Layer normalization of each group over its own entries.

    Ba, Kiros & Hinton (2016), arXiv:1607.06450.
    """

    group: Tensor
    members: Tensor

    def __init__(self, widths: Sequence[int], eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sum(widths)))
        self.bias = nn.Parameter(torch.zeros(sum(widths)))
        self.eps = eps
        group = torch.repeat_interleave(torch.tensor(widths))
        if min(widths) == max(widths):
            members = torch.ones(len(widths), 1, max(widths))
        else:
            members = (group == torch.arange(len(widths))[:, None]).float()[None]
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("members", members, persistent=False)

    def forward(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "V B"]:
        averages = self.members / self.members.sum(-1, keepdim=True)
        out: Tensor = GroupedNorm.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, self.bias, averages, self.group, self.eps
        )
        return out
