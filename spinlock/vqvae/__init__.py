"""The tokenizer: categories of features, their codebooks, and the artifact on disk."""

from spinlock.vqvae.categories import Categories, discover
from spinlock.vqvae.config import VQVAEConfig
from spinlock.vqvae.layout import Layout, Level, plan
from spinlock.vqvae.losses import TERMS, VQPrediction, predict, weights
from spinlock.vqvae.matched import MatchedTokenizer
from spinlock.vqvae.metrics import TARGETS, Quality, composite, quality, reference_loss
from spinlock.vqvae.model import VQVAE, Quantized
from spinlock.vqvae.ratios import category_ratios
from spinlock.vqvae.tokenizer import Tokenized, Tokenizer, TokenizerConfig

__all__ = [
    "TARGETS",
    "TERMS",
    "VQVAE",
    "Categories",
    "Layout",
    "Level",
    "MatchedTokenizer",
    "Quality",
    "Quantized",
    "Tokenized",
    "Tokenizer",
    "TokenizerConfig",
    "VQPrediction",
    "VQVAEConfig",
    "category_ratios",
    "composite",
    "discover",
    "plan",
    "predict",
    "quality",
    "reference_loss",
    "weights",
]
