"""VQ-VAEs that were trained elsewhere: checkpoints of the research prototype, read as data."""

from spinlock.vqvae.foreign.checkpoint import read_checkpoint
from spinlock.vqvae.foreign.config import PrototypeConfig
from spinlock.vqvae.foreign.load import Prototype, load_prototype
from spinlock.vqvae.foreign.prototype import KIND, PrototypeVQVAE

__all__ = [
    "KIND",
    "Prototype",
    "PrototypeConfig",
    "PrototypeVQVAE",
    "load_prototype",
    "read_checkpoint",
]
