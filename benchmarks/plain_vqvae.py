"""The tokenizer's model and losses as one would first write them: a module per codebook, in loops.

What `benchmarks/vqvae.py` measures the batched model against, and what its losses must equal.
Letters as in `spinlock.vqvae.model`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from spinlock.vqvae import VQVAE, Layout, Level, VQVAEConfig


class PlainCodebook(nn.Module):
    """One EMA codebook. `forward` gives straight-through vectors and codes."""

    def __init__(self, level: Level, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", torch.randn(level.num_tokens, level.latent_dim))
        self.register_buffer("counts", torch.ones(level.num_tokens))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            nearest = torch.cdist(latent, self.codes).argmin(1)
        self.seen = latent.detach(), nearest
        return latent + (self.codes[nearest] - latent).detach(), nearest

    @torch.no_grad()
    def commit(self) -> None:
        latent, nearest = self.seen
        chosen = F.one_hot(nearest, len(self.codes)).to(latent.dtype)
        seen = chosen.sum(0)
        self.counts.mul_(self.decay).add_(seen, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(chosen.T @ latent, alpha=1 - self.decay)
        self.codes[seen > 0] = (self.sums / self.counts[:, None])[seen > 0]


class PublishedCodebook(nn.Module):
    """The same by vector-quantize-pytorch, which moves its codes within the forward."""

    def __init__(self, level: Level, decay: float) -> None:
        super().__init__()
        self.quantizer = VectorQuantize(
            dim=level.latent_dim,
            codebook_size=level.num_tokens,
            decay=decay,
            threshold_ema_dead_code=0,
            rotation_trick=False,
            commitment_weight=0.0,
        )

    @property
    def codes(self) -> Tensor:
        return self.quantizer.codebook

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        vectors, nearest, _ = self.quantizer(latent)
        return vectors, nearest

    def commit(self) -> None: ...


@dataclass
class Seen:
    """One forward; lists hold one tensor per codebook, category-major."""

    target: Tensor
    reconstruction: Tensor
    latents: list[Tensor]
    vectors: list[Tensor]
    codes: list[Tensor]
    partials: list[Tensor]


class PlainVQVAE(nn.Module):
    """The model of `spinlock.vqvae.VQVAE`, with `nn.Linear`s and a module per codebook."""

    def __init__(
        self, config: VQVAEConfig, layout: Layout, codebook: Callable[[Level, float], nn.Module]
    ) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        hidden, embedding = config.hidden_dim, config.embedding_dim
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(len(group), hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(hidden, embedding),
                nn.LayerNorm(embedding),
            )
            for group in layout.groups
        )
        levels = layout.codebooks
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(embedding, level.latent_dim), nn.LayerNorm(level.latent_dim))
            for level in levels
        )
        self.codebooks = nn.ModuleList(codebook(level, config.ema_decay) for level in levels)
        self.decoder = nn.Sequential(
            nn.Linear(layout.latent_dim, config.decoder_hidden_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.decoder_hidden_dim, layout.features),
        )
        self.partial_decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(level.latent_dim, config.partial_hidden_dim),
                nn.ReLU(),
                nn.Linear(config.partial_hidden_dim, len(group)),
            )
            for group, levels in zip(layout.groups, layout.levels, strict=True)
            for level in levels
        )

    def forward(self, batch: Tensor) -> Seen:
        latents = self.encode(batch)
        quantized = [book(z) for book, z in zip(self.codebooks, latents, strict=True)]
        vectors = [vector for vector, _ in quantized]
        return Seen(
            target=batch,
            reconstruction=self.decoder(torch.cat(vectors, 1)),
            latents=latents,
            vectors=vectors,
            codes=[code for _, code in quantized],
            partials=self.decode_partially(vectors),
        )

    def encode(self, batch: Tensor) -> list[Tensor]:
        embeddings = [
            encoder(batch[:, list(group)])
            for encoder, group in zip(self.encoders, self.layout.groups, strict=True)
        ]
        return [
            projector(embeddings[q // self.layout.num_levels])
            for q, projector in enumerate(self.projectors)
        ]

    def decode_partially(self, vectors: list[Tensor]) -> list[Tensor]:
        return [
            decoder(vector) for decoder, vector in zip(self.partial_decoders, vectors, strict=True)
        ]

    def after_update(self) -> None:
        for book in self.codebooks:
            book.commit()

    def terms(self, seen: Seen, topography: Callable[[Seen, int], Tensor]) -> dict[str, Tensor]:
        groups, levels = self.layout.groups, self.layout.num_levels
        z, z_q = torch.cat(seen.latents, 1), torch.cat(seen.vectors, 1)
        cosines = [
            squared_cosines(book.codes, latent, codes)
            for book, latent, codes in zip(self.codebooks, seen.latents, seen.codes, strict=True)
        ]
        errors = [
            F.mse_loss(partial, seen.target[:, list(groups[q // levels])])
            for q, partial in enumerate(seen.partials)
        ]
        return {
            "reconstruction": F.mse_loss(seen.reconstruction, seen.target),
            "commitment": F.mse_loss(z, z_q.detach()),
            "orthogonality": torch.stack(cosines).mean(),
            "informativeness": torch.stack(errors).mean(),
            "topography": topography(seen, self.config.topo_samples),
        }

    @torch.no_grad()
    def take(self, model: VQVAE) -> None:
        """The same weights and codebooks as `model`."""
        (hidden, norm), (project, project_norm) = model.encoder, model.projector
        for g, encoder in enumerate(self.encoders):
            _affine(encoder[0], hidden.first, g)
            _affine(encoder[3], hidden.second, g)
            _norm(encoder[4], norm, g * self.config.embedding_dim)
        row, levels = 0, self.layout.num_levels
        for q, book in enumerate(self.codebooks):
            size, width = book.codes.shape
            if q % levels == 0:
                first = row
            self.projectors[q][0].weight.copy_(
                project.affine.weight[q // levels, row - first : row - first + width]
            )
            self.projectors[q][0].bias.copy_(
                project.affine.bias[q // levels, row - first : row - first + width]
            )
            _norm(self.projectors[q][1], project_norm, row)
            row += width
            _affine(self.partial_decoders[q][0], model.partial_decoder.first, q)
            _affine(self.partial_decoders[q][2], model.partial_decoder.second, q)
            book.codes.copy_(model.bank.codebooks[q, :size, :width])
            book.sums.copy_(model.bank.sums[q, :size, :width])
            book.counts.copy_(model.bank.counts[q, :size])
        _affine(self.decoder[0], model.decoder.first, 0)
        _affine(self.decoder[3], model.decoder.second, 0)


def squared_cosines(codes: Tensor, latent: Tensor, nearest: Tensor) -> Tensor:
    """`spinlock.vqvae.losses.orthogonality` of one codebook."""
    used = nearest.unique()
    if len(used) < 2:
        return latent.new_zeros(())
    chosen = F.one_hot(nearest, len(codes)).to(latent.dtype)[:, used]
    means = chosen.T @ latent / chosen.sum(0)[:, None]
    directions = F.normalize(codes[used] + means - means.detach())
    cosines = directions @ directions.T
    return (cosines.square().sum() - cosines.diagonal().square().sum()) / (
        len(used) * (len(used) - 1)
    )


def topography(seen: Seen, samples: int) -> Tensor:
    """`spinlock.vqvae.losses.topography`: distances over all latents side by side."""
    d_x, d_z, d_q = (
        torch.cdist(points[:samples], points[:samples])
        for points in (seen.target, torch.cat(seen.latents, 1), torch.cat(seen.vectors, 1))
    )
    pairs = ~torch.eye(len(d_x), dtype=torch.bool)
    return 0.3 * (1 - pearson(d_x[pairs], d_z[pairs])) + 0.7 * (1 - pearson(d_z[pairs], d_q[pairs]))


def prototype_topography(seen: Seen, samples: int) -> Tensor:
    """The research prototype's: one distance matrix per codebook, averaged; the diagonal counts."""
    target = seen.target[:samples]
    d_x = torch.cdist(target, target)
    d_z, d_q = torch.zeros_like(d_x), torch.zeros_like(d_x)
    for total, layers in ((d_z, seen.latents), (d_q, seen.vectors)):
        for layer in layers:
            total += torch.cdist(layer[:samples], layer[:samples]) / len(layers)
    return 0.3 * (1 - pearson(d_x, d_z)) + 0.7 * (1 - pearson(d_z, d_q))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def _affine(plain: nn.Linear, grouped: nn.Module, g: int) -> None:
    outputs, inputs = plain.weight.shape
    plain.weight.copy_(grouped.weight[g, :outputs, :inputs])
    plain.bias.copy_(grouped.bias[g, :outputs])


def _norm(plain: nn.LayerNorm, grouped: nn.Module, g: int) -> None:
    (width,) = plain.normalized_shape
    plain.weight.copy_(grouped.weight[g : g + width])
    plain.bias.copy_(grouped.bias[g : g + width])
