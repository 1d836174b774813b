"""The table of everything that searches can train."""

from spinlock.search.noa import NOA
from spinlock.search.trainable import Trainable
from spinlock.search.vqvae import VQVAE

TRAINABLES: dict[str, Trainable] = {"noa": NOA(), "vqvae": VQVAE()}
