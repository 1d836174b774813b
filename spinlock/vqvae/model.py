"""The categorical, hierarchical VQ-VAE over standardized features.

Each category of features has its own encoder to a common embedding, a projector from it to
each level's latent, and a codebook per level; the levels are parallel views, not residuals. One
decoder reads all quantized latents together; partial decoders read one each.
Everything runs for all categories and levels at once, on the rows of `spans.py`: latents are
[V, B], one entry of one codebook's latent in each row, category-major, one item in each column.
Letters: B items, D features, G categories, L levels, Q = G L codebooks, E the padded latent
width, V the latents' widths added up, U the widths of all codebooks' categories added up.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.grouped import GroupedLayerNorm, GroupedLinear, GroupedMLP
from spinlock.vqvae.kernels import StraightThrough
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

    encoded: Tensor
    partially_decoded: Tensor
    partial_widths: Tensor

    def __init__(self, config: VQVAEConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        widths = [len(group) for group in layout.groups]
        embeddings = [config.embedding_dim] * len(widths)
        self.latent_dims = [level.latent_dim for level in layout.codebooks]
        category_dims = [sum(level.latent_dim for level in own) for own in layout.levels]

        self.encoder = nn.Sequential(
            GroupedMLP(widths, config.hidden_dim, embeddings, config.dropout),
            GroupedLayerNorm(embeddings),
        )
        self.projector = nn.Sequential(
            GroupedLinear(embeddings, category_dims), GroupedLayerNorm(self.latent_dims)
        )
        self.bank = CodebookBank(
            layout.codebooks,
            config.ema_decay,
            config.dead_code_reset_interval,
            config.dead_code_threshold,
        )
        self.decoder = GroupedMLP(
            [layout.latent_dim], config.decoder_hidden_dim, [layout.features], config.dropout
        )
        categories = [group for group in layout.groups for _ in range(layout.num_levels)]
        self.partial_decoder = GroupedMLP(
            self.latent_dims,
            config.partial_hidden_dim,
            [len(category) for category in categories],
        )

        widths = [len(group) for group in categories for _ in group]
        encoded = torch.tensor([i for group in layout.groups for i in group])
        decoded = torch.tensor([i for group in categories for i in group])
        self.register_buffer("encoded", encoded, persistent=False)
        self.register_buffer("partially_decoded", decoded, persistent=False)
        self.register_buffer("partial_widths", torch.tensor(widths).float(), persistent=False)

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together, V."""
        return self.layout.latent_dim

    def encode(self, standardized: Float[Tensor, "B D"]) -> list[Tensor]:
        """One latent [B, E_q] per codebook, category-major, before quantization."""
        return self.split(self.latent_rows(standardized).T)

    def quantize(self, latents: list[Tensor]) -> Quantized:
        """Each latent's nearest code; see `Quantized` for the gradient."""
        rows = torch.cat(latents, dim=1).T
        codes = self.bank.assign(rows)
        vectors = self.bank.rows(codes)
        if self.training:
            vectors = straight_through(rows, vectors)
        return Quantized(self.split(vectors.T), codes)

    def decode(self, vectors: list[Tensor]) -> Float[Tensor, "B D"]:
        """Standardized features from one vector per codebook."""
        return self.reconstruct(torch.cat(vectors, dim=1))

    def decode_codes(self, codes: Int[Tensor, "B Q"]) -> Float[Tensor, "B D"]:
        """Standardized features from tokens."""
        return self.reconstruct(self.bank.rows(codes).T)

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

    def latents(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "B Q E"]:
        """All latents before quantization, padded with zeros."""
        return self.bank.pad(self.latent_rows(standardized))

    def flatten(self, padded: Float[Tensor, "B Q E"]) -> Float[Tensor, "B V"]:
        """All latents side by side, category-major, without padding."""
        return self.bank.unpad(padded).T

    def unflatten(self, flat: Float[Tensor, "B V"]) -> Float[Tensor, "B Q E"]:
        """The inverse of `flatten`."""
        return self.bank.pad(flat.T)

    def split(self, flat: Float[Tensor, "B V"]) -> list[Tensor]:
        """One tensor per codebook from all latents side by side."""
        return list(flat.split(self.latent_dims, dim=1))

    def reconstruct(self, flat: Float[Tensor, "B V"]) -> Float[Tensor, "B D"]:
        """The shared decoder, from all vectors side by side."""
        features: Tensor = self.decoder(flat.T)
        return features.T

    # What the methods above are made of, on rows.

    def latent_rows(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "V B"]:
        """All latents before quantization."""
        embeddings = self.encoder(standardized.T.index_select(0, self.encoded))
        latents: Tensor = self.projector(embeddings)
        return latents

    def reconstruct_partially(self, vectors: Float[Tensor, "V B"]) -> Float[Tensor, "U B"]:
        """Each codebook's own category from its vector alone, codebook by codebook."""
        features: Tensor = self.partial_decoder(vectors)
        return features

    def partial_target(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "U B"]:
        """What `reconstruct_partially` should give."""
        return standardized.T.index_select(0, self.partially_decoded)


def straight_through(
    latents: Float[Tensor, "*shape"], vectors: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`vectors` in value, to the bit, and the identity of `latents` in gradient.

    Bengio, Léonard & Courville (2013), arXiv:1308.3432; arXiv:1711.00937, section 3.2.
    """
    value: Tensor = StraightThrough.apply(latents, vectors)  # type: ignore[no-untyped-call]
    return value
