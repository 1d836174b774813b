"""Tokens and reconstructions that belong to their sample alone, to the last bit.

A matrix product rounds by the shape of its batch: on a CPU the decoder's output for 1, 2 or 3
samples differs from that for 4 or more by up to 5e-7, and with two threads 5 and 7 differ too.
A latent halfway between two codes may then change its token. So everything here runs in blocks of
one shape, filled up with zeros. Models are in eval mode. N samples, D features, Q codebooks.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.vqvae import VQVAE

ROWS = 256


@torch.no_grad()
def encode(model: VQVAE, standardized: Float[Tensor, "N D"]) -> Int[Tensor, "N Q"]:
    """The tokens of standardized features, category-major."""
    return _in_blocks(lambda rows: model.bank.nearest(model.latents(rows)), standardized)


@torch.no_grad()
def decode(model: VQVAE, codes: Int[Tensor, "N Q"]) -> Float[Tensor, "N D"]:
    """Standardized features from tokens."""
    return _in_blocks(model.decode_codes, codes)


@torch.no_grad()
def reconstruct(model: VQVAE, standardized: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """The model's own reconstruction: encoders, nearest codes, decoder, in one pass."""
    return _in_blocks(
        lambda rows: model.decode(model.quantize(model.encode(rows)).vectors), standardized
    )


def _in_blocks(step: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    done = []
    for part in rows.split(ROWS):
        block = part.new_zeros((ROWS, *part.shape[1:]))
        block[: len(part)] = part
        done.append(step(block)[: len(part)])
    return torch.cat(done)
