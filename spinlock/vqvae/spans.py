"""Where entries of groups of different widths stand: in rows, and padded for a product.

In *rows*, [V, B], a row is one entry of one group and a column is an item; the groups' rows follow
each other without padding, so picking entries copies whole rows. For a product, neighbouring
groups form a *span*, [g, W, B], padded with zeros to its widest group.
Letters: B items, G groups, g groups of one span, W its padded width, V the groups' widths
added up, n those of one span.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

MOST_SPANS = 3
# Products are fastest over whole vector registers.
LANES = 8


def width_mask(widths: Sequence[int], width: int | None = None) -> Bool[Tensor, "G W"]:
    """True where a group of the padded tensor has an entry of its own."""
    return torch.arange(width or max(widths))[None, :] < torch.tensor(widths)[:, None]


def places(widths: Sequence[int], width: int | None = None) -> Int[Tensor, " V"]:
    """Where the groups' rows stand among those of the padded [G, W], flattened."""
    return width_mask(widths, width).flatten().nonzero()[:, 0]


def partition(widths: Sequence[int], most: int = MOST_SPANS) -> tuple[int, ...]:
    """How many neighbouring groups each span takes: the least padding by `most` spans.

    Little is wasted when groups are ordered by width, as discovered categories are.
    """
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(most):
        ways = [(end, *found) for end, found in best.items()]
        for start, area, counts in list(ways):
            for end in range(start + 1, len(widths) + 1):
                padded = (end - start) * max(widths[start:end])
                ways.append((end, area + padded, (*counts, end - start)))
        ways.sort(key=lambda way: (way[1], len(way[2])), reverse=True)
        best = {end: (area, counts) for end, area, counts in ways}
    return best[len(widths)][1]


class Spans(nn.Module):
    """All groups of these widths, `counts` of them to a span.

    With `bias`, each padded tensor has a last entry of 1, for a product to add a bias by.
    """

    def __init__(self, widths: Sequence[int], counts: Sequence[int], *, bias: bool = False) -> None:
        super().__init__()
        ends = list(accumulate(counts))
        self.parts = nn.ModuleList(
            Span(widths, end - count, count, bias=bias)
            for end, count in zip(ends, counts, strict=True)
        )

    def __iter__(self) -> Iterator["Span"]:
        return (part for part in self.parts if isinstance(part, Span))


class Span(nn.Module):
    """`count` groups from `first` on."""

    places: Tensor

    def __init__(self, widths: Sequence[int], first: int, count: int, *, bias: bool) -> None:
        super().__init__()
        own = widths[first : first + count]
        start = sum(widths[:first])
        self.groups = slice(first, first + count)
        self.rows = slice(start, start + sum(own))
        self.count, self.width, self.bias = count, max(own), bias
        self.padded = -(-(self.width + 1) // LANES) * LANES if bias else self.width
        self.dense = not bias and min(own) == max(own)
        self.register_buffer("places", places(own, self.padded), persistent=False)

    def pad(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "g W B"]:
        """Their rows among all, padded."""
        part = rows[self.rows]
        if self.dense:
            return part.reshape(self.count, self.width, part.shape[1])
        padded = part.new_zeros(self.count, self.padded, part.shape[1])
        padded.flatten(0, 1).index_copy_(0, self.places, part)
        if self.bias:
            padded[:, -1] = 1
        return padded

    def unpad(self, padded: Float[Tensor, "g W B"]) -> Float[Tensor, "n B"]:
        """Their own rows again."""
        rows = padded.flatten(0, 1)
        return rows if self.dense else rows.index_select(0, self.places)
