"""All codebooks of the tokenizer as one bank of buffers, moved by exponential moving averages.

van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning (2017),
arXiv:1711.00937, appendix A.1, equations 6 to 8. Letters: B items, Q codebooks, K codes and E
entries (both padded to the largest codebook's).

The optimizer never sees a codebook. A training forward adds what it saw to `accumulate`d sums;
`commit` applies them once, after the optimizer's update, so micro-batches move the codebooks
exactly as the whole batch would have. Everything that changes is a buffer, the random
generator's state included. What was accumulated but not committed is not saved: a checkpoint
belongs between updates.

With no smoothing and no reset, vector-quantize-pytorch gives the same codes, counts and codebooks
after any number of updates. Differences: it moves codes in the forward, not at `commit`; it
smooths counts (Laplace), so that unused codes drift to the origin, where ours stay; it resets a
code below an absolute count, ours the lowest percentile of a codebook (`dead_codes`).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spinlock.vqvae.layout import Level
from spinlock.vqvae.shelves import Shelves, pad_rows, pick_rows
from spinlock.vqvae.spans import places, width_mask

# Of one codebook's codes, at most this share is reset at a time: more would move the
# decoder's inputs faster than it can follow (the prototype's limit, kept).
LARGEST_RESET = 0.25
# A code is dead only if it is also used less than this share of an even share: the lowest
# percentile of a healthy codebook is a percentile too, and must not be thrown away.
DEAD_SHARE = 0.1
KMEANS_SAMPLES, KMEANS_ITERATIONS = 8192, 10


class CodebookBank(nn.Module):
    """Q vector quantizers, each with its own number of codes and entries, as batched products.

    Codes start from a normal distribution, which is the latents' scale (they leave a layer
    normalization), with a count of 1 each: with counts of 0, as in the prototype, unused codes
    jump to 1e2 to 1e3 times the latents' length at once. `initialise` puts them among the data.
    """

    codebooks: Tensor
    counts: Tensor
    sums: Tensor
    updates: Tensor
    generator_state: Tensor
    code_mask: Tensor
    entry_mask: Tensor
    entries: Tensor

    def __init__(
        self, levels: Sequence[Level], decay: float, reset_interval: int, reset_percentile: float
    ) -> None:
        super().__init__()
        self.decay = decay
        self.reset_interval = reset_interval
        self.reset_percentile = reset_percentile
        self.sizes = tuple(level.num_tokens for level in levels)
        code_mask = width_mask(self.sizes)
        entry_mask = width_mask([level.latent_dim for level in levels]).float()
        # Seeded from the global generator, like the weights, then independent of it.
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        shape = (*code_mask.shape, entry_mask.shape[1])
        codebooks = torch.randn(shape, generator=generator)
        codebooks *= code_mask[:, :, None] * entry_mask[:, None]
        self.register_buffer("codebooks", codebooks)
        self.register_buffer("counts", code_mask.float())
        self.register_buffer("sums", codebooks.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("generator_state", generator.get_state())
        self.register_buffer("code_mask", code_mask, persistent=False)
        self.register_buffer("entry_mask", entry_mask, persistent=False)
        self.register_buffer("entries", places([x.latent_dim for x in levels]), persistent=False)
        self.shelves = Shelves(levels)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, latents: Float[Tensor, "B Q E"]) -> Int[Tensor, "B Q"]:
        """The nearest code of each latent, by Euclidean distance; the first of equals.

        In training mode the latents are remembered for `commit`.
        """
        return self.assign(self.unpad(latents))

    def assign(self, rows: Float[Tensor, "V B"]) -> Int[Tensor, "B Q"]:
        """As `forward`, of latents in rows (see `spans.py`)."""
        rows = rows.detach().to(self.codebooks.dtype)
        codes = self._nearest(rows)
        if self.training:
            self._seen.append((rows, codes))
        return codes

    def nearest(self, latents: Float[Tensor, "B Q E"]) -> Int[Tensor, "B Q"]:
        """As `forward`, without remembering."""
        return self._nearest(self.unpad(latents).detach().to(self.codebooks.dtype))

    def lookup(self, codes: Int[Tensor, "B Q"]) -> Float[Tensor, "B Q E"]:
        """The vectors that codes stand for; padding entries are zero."""
        return self.pad(self.rows(codes))

    def rows(self, codes: Int[Tensor, "B Q"]) -> Float[Tensor, "V B"]:
        """As `lookup`, in rows."""
        return pick_rows(self.codebooks, codes, self.entries)

    def pad(self, rows: Float[Tensor, "V B"]) -> Float[Tensor, "B Q E"]:
        """Latents in rows as one tensor, padded with zeros."""
        return pad_rows(rows, self.entries, self.codebooks)

    def unpad(self, latents: Float[Tensor, "B Q E"]) -> Float[Tensor, "V B"]:
        """The inverse of `pad`."""
        return latents.permute(1, 2, 0).flatten(0, 1).index_select(0, self.entries)

    @torch.no_grad()
    def commit(self) -> None:
        """Move the codebooks by what was seen since the last commit, and reset dead codes.

        With decay g, N_k <- g N_k + (1 - g) n_k, m_k <- g m_k + (1 - g) sum z, e_k = m_k / N_k
        for the codes that were used. The others stay where they are: theirs would be the same
        ratio, but for the rounding of two numbers that decay to nothing, which is why
        no Laplace smoothing is needed. Under `torch.distributed` every rank must call this; the
        sums are those of all ranks. When nothing was seen, nothing moves.
        """
        seen, sums = self._statistics()
        batch, self._seen = self._seen, []
        if not seen.any():
            return
        self.counts.lerp_(seen, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        moved = self.sums / self.counts.clamp_min(1e-20)[..., None]
        self.codebooks.copy_(torch.where(seen[..., None] > 0, moved, self.codebooks))
        self.updates += 1
        if int(self.updates) % self.reset_interval == 0:
            if batch:
                rows, codes = zip(*batch, strict=True)
                self._reset_dead(self.pad(torch.cat(rows, 1)), torch.cat(codes))
            self._agree()

    def discard(self) -> None:
        """Forget what was seen since the last commit: the update it belonged to was skipped."""
        self._seen = []

    @torch.no_grad()
    def initialise(self, latents: Float[Tensor, "B Q E"]) -> None:
        """Put every codebook among `latents` by k-means, seeded by squared distances.

        At most KMEANS_SAMPLES of them are used. Arthur & Vassilvitskii, k-means++ (2007).
        Counts become the clusters' shares times K, so the mean count stays 1 and the start
        weighs little against the first batches. Every rank that is given the same latents does
        the same.
        """
        generator = self._generator()
        chosen = torch.randperm(len(latents), generator=generator)[:KMEANS_SAMPLES]
        latents = latents.to(self.codebooks.dtype)[chosen.to(latents.device)]
        self._seed(latents, generator)
        rows = self.unpad(latents)
        for _ in range(KMEANS_ITERATIONS):
            seen, sums = self.shelves.count(rows, self._nearest(rows), self.sums)
            means = sums / seen.clamp_min(1)[..., None]
            self.codebooks.copy_(torch.where(seen[..., None] > 0, means, self.codebooks))
        seen, _ = self.shelves.count(rows, self._nearest(rows), self.sums)
        sizes = self.code_mask.sum(-1, keepdim=True)
        self.counts.copy_(seen * sizes / len(latents))
        self.sums.copy_(self.codebooks * self.counts[..., None])

    @torch.no_grad()
    def _nearest(self, rows: Float[Tensor, "V B"]) -> Int[Tensor, "B Q"]:
        # Half precision would choose other codes.
        with torch.autocast(rows.device.type, enabled=False):
            return self.shelves.nearest(rows, self.codebooks)

    def _statistics(self) -> tuple[Float[Tensor, "Q K"], Float[Tensor, "Q K E"]]:
        seen, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for rows, codes in self._seen:
            part = self.shelves.count(rows, codes, self.sums)
            seen += part[0]
            sums += part[1]
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)
            dist.all_reduce(sums)
        return seen, sums

    def _reset_dead(self, latents: Float[Tensor, "B Q E"], codes: Int[Tensor, "B Q"]) -> None:
        """Move dead codes to latents of the last batch, the likelier the worse they are coded."""
        dead = self.dead_codes()
        most = int(dead.sum(-1).max())
        if most == 0:
            return
        error = (latents - self.lookup(codes)).square().sum(-1).transpose(0, 1) + 1e-12
        drawn = torch.multinomial(
            error.cpu(), most, replacement=len(latents) < most, generator=(g := self._generator())
        ).to(latents.device)
        self.generator_state.copy_(g.get_state())
        # The n-th dead code of a codebook takes the n-th latent drawn for it.
        rank = (dead.cumsum(-1) - 1).clamp(0, most - 1)
        item = drawn.gather(1, rank)
        books = torch.arange(len(dead), device=item.device)[:, None]
        self.codebooks.copy_(torch.where(dead[..., None], latents[item, books], self.codebooks))
        alive = self.counts.masked_fill(~self.code_mask, torch.nan)
        median = alive.nanmedian(-1, keepdim=True).values
        self.counts.copy_(torch.where(dead, median, self.counts))
        self.sums.copy_(
            torch.where(dead[..., None], self.codebooks * self.counts[..., None], self.sums)
        )

    def dead_codes(self) -> Bool[Tensor, "Q K"]:
        """True for the codes that a reset would move: the least used up to the percentile, if
        they are used less than DEAD_SHARE of an even share, at most LARGEST_RESET of a codebook.
        """
        counts = self.counts.masked_fill(~self.code_mask, torch.nan)
        limit = counts.nanquantile(self.reset_percentile / 100, dim=-1, keepdim=True)
        even = self.counts.sum(-1, keepdim=True) / self.code_mask.sum(-1, keepdim=True)
        order = counts.nan_to_num(torch.inf).argsort(dim=-1, stable=True).argsort(-1)
        most = (self.code_mask.sum(-1, keepdim=True) * LARGEST_RESET).floor().clamp_min(1)
        dead: Tensor = (counts <= limit) & (counts < DEAD_SHARE * even) & (order < most)
        return dead

    def _seed(self, latents: Float[Tensor, "B Q E"], generator: torch.Generator) -> None:
        """k-means++ for all codebooks at once: each code far from those before it."""
        points = latents.transpose(0, 1)
        books = torch.arange(len(points), device=points.device)
        nearest = torch.ones(points.shape[:2], device=points.device)
        for code in range(self.codebooks.shape[1]):
            # On the CPU: draws must not depend on the device.
            drawn = torch.multinomial(nearest.cpu(), 1, generator=generator)[:, 0]
            picked = points[books, drawn.to(points.device)]
            self.codebooks[:, code] = picked * self.code_mask[:, code, None]
            distance = (points - picked[:, None]).square().sum(-1) + 1e-12
            nearest = distance if code == 0 else torch.minimum(nearest, distance)
        self.generator_state.copy_(generator.get_state())

    def _generator(self) -> torch.Generator:
        generator = torch.Generator()
        generator.set_state(self.generator_state.cpu())
        return generator

    def _agree(self) -> None:
        """Every rank takes rank 0's codebooks: the ranks drew from different items."""
        if dist.is_available() and dist.is_initialized():
            for buffer in (self.codebooks, self.counts, self.sums, self.generator_state):
                dist.broadcast(buffer, src=0)
