"""The categorical, hierarchical VQ-VAE over standardized features.

Each category of features has its own encoder to a common embedding, a projector from it to
each level's latent, and a codebook per level; the levels are parallel views, not residuals. One
decoder reads all quantized latents together; partial decoders read one each.
Everything runs for all categories and levels at once (`grouped.py`). Letters: B items, D
features, G categories, L levels, Q = G L codebooks (category-major), E the padded latent width,
N the padded category width, V the latents' widths added up.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.grouped import GroupedLayerNorm, GroupedLinear, width_mask
from spinlock.vqvae.layout import Layout
from spinlock.vqvae.quantizer import CodebookBank


@dataclass(frozen=True)
class Quantized:
    """Codes, category-major, and the vectors to decode.

    In training mode the vectors are straight-through: their value is the code's, their gradient
    goes to the latent unchanged. In eval mode they have no gradient.
    """

    vectors: list[Tensor]
    codes: Int[Tensor, "B Q"]


class VQVAE(nn.Module):
    """Encoders, codebooks and decoders for one layout of categories."""

    group_index: Tensor
    group_mask: Tensor
    latent_index: Tensor

    def __init__(self, config: VQVAEConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        groups, levels = len(layout.groups), layout.num_levels
        widths = [len(group) for group in layout.groups]
        self.latent_dims = [level.latent_dim for level in layout.codebooks]
        count, drop = groups * levels, config.dropout

        self.encoder = nn.Sequential(
            GroupedLinear(widths, [config.hidden_dim] * groups),
            nn.ReLU(),
            nn.Dropout(drop),
            GroupedLinear([config.hidden_dim] * groups, [config.embedding_dim] * groups),
            GroupedLayerNorm([config.embedding_dim] * groups),
        )
        self.projector = nn.Sequential(
            GroupedLinear([config.embedding_dim] * count, self.latent_dims),
            GroupedLayerNorm(self.latent_dims),
        )
        self.bank = CodebookBank(
            layout.codebooks,
            config.ema_decay,
            config.dead_code_reset_interval,
            config.dead_code_threshold,
        )
        self.decoder = nn.Sequential(
            nn.Linear(layout.latent_dim, config.decoder_hidden_dim),
            nn.ReLU(),
            nn.Dropout(drop),
            nn.Linear(config.decoder_hidden_dim, layout.features),
        )
        self.partial_decoder = nn.Sequential(
            GroupedLinear(self.latent_dims, [config.partial_hidden_dim] * count),
            nn.ReLU(),
            GroupedLinear(
                [config.partial_hidden_dim] * count, [w for w in widths for _ in range(levels)]
            ),
        )

        group_mask = width_mask(widths)
        group_index = torch.zeros(group_mask.shape, dtype=torch.int64)
        group_index[group_mask] = torch.tensor([i for group in layout.groups for i in group])
        entry_mask = width_mask(self.latent_dims)
        self.register_buffer("group_index", group_index, persistent=False)
        self.register_buffer("group_mask", group_mask.float(), persistent=False)
        self.register_buffer("latent_index", entry_mask.flatten().nonzero()[:, 0], persistent=False)

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together, V."""
        return self.layout.latent_dim

    def encode(self, standardized: Float[Tensor, "B D"]) -> list[Tensor]:
        """One latent [B, E_q] per codebook, category-major, before quantization."""
        return self.split(self.flatten(self.latents(standardized)))

    def quantize(self, latents: list[Tensor]) -> Quantized:
        """Each latent's nearest code; see `Quantized` for the gradient."""
        padded = self.unflatten(torch.cat(latents, dim=1))
        codes = self.bank(padded)
        vectors = self.bank.lookup(codes)
        if self.training:
            vectors = straight_through(padded, vectors)
        return Quantized(self.split(self.flatten(vectors)), codes)

    def decode(self, vectors: list[Tensor]) -> Float[Tensor, "B D"]:
        """Standardized features from one vector per codebook."""
        return self.reconstruct(torch.cat(vectors, dim=1))

    def decode_codes(self, codes: Int[Tensor, "B Q"]) -> Float[Tensor, "B D"]:
        """Standardized features from tokens."""
        return self.reconstruct(self.flatten(self.bank.lookup(codes)))

    def after_update(self) -> None:
        """Move the codebooks by what the training forwards since the last update saw.

        To be called once after each update of the optimizer; `discard` after one that was
        skipped.
        """
        self.bank.commit()

    def discard(self) -> None:
        """Forget what the training forwards since the last update saw."""
        self.bank.discard()

    @torch.no_grad()
    def initialise(self, standardized: Float[Tensor, "B D"]) -> None:
        """Put the codebooks among the latents of training features, before the first update."""
        was_training = self.training
        self.eval()  # dropout off
        self.bank.initialise(self.latents(standardized))
        self.train(was_training)

    # The batched path: what the list-shaped methods above are made of.

    def grouped(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "B G N"]:
        """Each category's own features, padded with zeros."""
        return standardized[:, self.group_index] * self.group_mask

    def latents(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "B Q E"]:
        """All latents before quantization, padded with zeros."""
        embedding = self.encoder(self.grouped(standardized))
        latents: Tensor = self.projector(embedding.repeat_interleave(self.layout.num_levels, 1))
        return latents

    def reconstruct(self, vectors: Float[Tensor, "B V"]) -> Float[Tensor, "B D"]:
        """The shared decoder."""
        reconstruction: Tensor = self.decoder(vectors)
        return reconstruction

    def reconstruct_partially(self, vectors: Float[Tensor, "B Q E"]) -> Float[Tensor, "B Q N"]:
        """Each codebook's own category, from that codebook's vector alone; padding is zero."""
        partial: Tensor = self.partial_decoder(vectors)
        return partial

    def flatten(self, padded: Float[Tensor, "B Q E"]) -> Float[Tensor, "B V"]:
        """All latents side by side, category-major, without padding."""
        return padded.flatten(1)[:, self.latent_index]

    def unflatten(self, flat: Float[Tensor, "B V"]) -> Float[Tensor, "B Q E"]:
        """The inverse of `flatten`."""
        count, width = len(self.latent_dims), max(self.latent_dims)
        padded = flat.new_zeros(len(flat), count * width)
        return padded.index_copy(1, self.latent_index, flat).view(len(flat), count, width)

    def split(self, flat: Float[Tensor, "B V"]) -> list[Tensor]:
        """One tensor per codebook from all latents side by side."""
        return list(torch.split(flat, self.latent_dims, dim=1))


def straight_through(
    latents: Float[Tensor, "B Q E"], vectors: Float[Tensor, "B Q E"]
) -> Float[Tensor, "B Q E"]:
    """`vectors` in value, to the bit, and the identity of `latents` in gradient."""
    return vectors.detach() + (latents - latents.detach())
