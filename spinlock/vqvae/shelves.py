"""Codebooks of like size side by side, so that products over all of them are little padded.

Latents are in the rows of `spans.py`. Letters as in `quantizer.py`; V are the latents' widths
added up, q, k and e the codebooks, codes and entries of one shelf.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spinlock.vqvae.layout import Level
from spinlock.vqvae.spans import partition, places, width_mask


class Shelves(nn.Module):
    """All codebooks, by their number of codes."""

    order: Tensor

    def __init__(self, levels: Sequence[Level]) -> None:
        super().__init__()
        order = sorted(range(len(levels)), key=lambda book: -levels[book].num_tokens)
        counts = partition([levels[book].num_tokens for book in order])
        parts = torch.tensor(order).split(list(counts))
        self.shelves = nn.ModuleList(Shelf(levels, part.tolist()) for part in parts)
        self.register_buffer("order", torch.tensor(order).argsort(), persistent=False)

    def nearest(
        self, rows: Float[Tensor, "V B"], codebooks: Float[Tensor, "Q K E"]
    ) -> Int[Tensor, "B Q"]:
        """The nearest code of each latent, by Euclidean distance; the first of equals."""
        codes = [shelf.nearest(rows, codebooks) for shelf in self._each()]
        return torch.cat(codes).index_select(0, self.order).T

    def count(
        self, rows: Float[Tensor, "V B"], codes: Int[Tensor, "B Q"], like: Float[Tensor, "Q K E"]
    ) -> tuple[Float[Tensor, "Q K"], Float[Tensor, "Q K E"]]:
        """Items per code and the sums of their latents, in the shape of `like`."""
        seen, sums = torch.zeros_like(like[..., 0]), torch.zeros_like(like)
        for shelf in self._each():
            shelf.count(rows, codes, seen, sums)
        return seen, sums

    def _each(self) -> list["Shelf"]:
        return [shelf for shelf in self.shelves if isinstance(shelf, Shelf)]


class Shelf(nn.Module):
    """Some of the codebooks, padded to the largest and the widest of them."""

    books: Tensor
    rows: Tensor
    places: Tensor
    code_mask: Tensor

    def __init__(self, levels: Sequence[Level], books: Sequence[int]) -> None:
        super().__init__()
        sizes = [levels[book].num_tokens for book in books]
        widths = [levels[book].latent_dim for book in books]
        self.size, self.width = max(sizes), max(widths)
        every = [level.latent_dim for level in levels]
        parts = torch.arange(sum(every)).split(every)
        self.register_buffer("books", torch.tensor(books), persistent=False)
        self.register_buffer("rows", torch.cat([parts[book] for book in books]), persistent=False)
        self.register_buffer("places", places(widths), persistent=False)
        self.register_buffer("code_mask", width_mask(sizes), persistent=False)

    def nearest(
        self, rows: Float[Tensor, "V B"], codebooks: Float[Tensor, "Q K E"]
    ) -> Int[Tensor, "q B"]:
        codes = codebooks[self.books, : self.size, : self.width]
        norms = codes.square().sum(-1).masked_fill(~self.code_mask, torch.inf)
        # Squared distances, less the latents' own squares.
        distances = torch.baddbmm(norms[..., None], codes, self._latents(rows), alpha=-2)
        # argmin over a dimension that is not the last is slower than turning it to be the last.
        return distances.transpose(1, 2).contiguous().argmin(-1)

    def count(
        self,
        rows: Float[Tensor, "V B"],
        codes: Int[Tensor, "B Q"],
        seen: Float[Tensor, "Q K"],
        sums: Float[Tensor, "Q K E"],
    ) -> None:
        """Fill in this shelf's part of `seen` and `sums`."""
        # A product with the one-hot codes, not index_add: that one is not deterministic on CUDA.
        used = rows.new_zeros(len(self.books), self.size, rows.shape[1])
        used.scatter_(1, codes.T.index_select(0, self.books)[:, None], 1.0)
        seen[self.books, : self.size] = used.sum(-1)
        found = torch.bmm(used, self._latents(rows).transpose(1, 2))
        sums[self.books, : self.size, : self.width] = found

    def _latents(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "q e B"]:
        padded = rows.new_zeros(len(self.books) * self.width, rows.shape[1])
        padded.index_copy_(0, self.places, rows.index_select(0, self.rows))
        return padded.view(len(self.books), self.width, -1)


def pick_rows(
    values: Float[Tensor, "Q K E"], codes: Int[Tensor, "B Q"], entries: Int[Tensor, " V"]
) -> Float[Tensor, "V B"]:
    """values[q, codes[b, q], e] in the row of entry (q, e) and the column of item b.

    `entries` are the rows' places in a flattened [Q, E].
    """
    table = values.transpose(1, 2).flatten(0, 1).index_select(0, entries)
    return table.gather(1, codes.T.index_select(0, entries // values.shape[2]))


def pad_rows(
    rows: Float[Tensor, "V B"], entries: Int[Tensor, " V"], codebooks: Float[Tensor, "Q K E"]
) -> Float[Tensor, "B Q E"]:
    """Rows as one tensor, padded with zeros to the shape of `codebooks`."""
    count, _, width = codebooks.shape
    padded = rows.new_zeros(count * width, rows.shape[1]).index_copy(0, entries, rows)
    return padded.view(count, width, -1).permute(2, 0, 1)
