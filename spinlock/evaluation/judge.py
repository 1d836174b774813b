"""Tokens judged: what they cost, what they keep of the features, what they can tell apart.

A sample is a window of one trajectory. N samples, Q codebooks, D standardized features.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.data import DatasetInfo, TrajectoryDataset, open_dataset
from spinlock.errors import DatasetError
from spinlock.evaluation.discriminability import (
    Discriminability,
    chosen,
    neighbours,
    prediction,
    retrieval,
    spaces,
)
from spinlock.evaluation.names import category_names, category_titles
from spinlock.evaluation.source import standardized_features
from spinlock.evaluation.tokens import Tokens
from spinlock.training.batches import split
from spinlock.training.config import VQVAETraining, training_config
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Codebook:
    """How one codebook is used: `entropy` in bits, `perplexity` its exponential."""

    category: str
    level: int
    codes: int
    used: int
    entropy: float

    @property
    def utilization(self) -> float:
        return self.used / self.codes

    @property
    def perplexity(self) -> float:
        return float(2.0**self.entropy)


@dataclass(frozen=True)
class Category:
    """What the tokens keep of one category: `error` is the mean square over its features."""

    name: str
    title: str
    features: int
    error: float


@dataclass(frozen=True)
class Compression:
    """Bits per sample: the features as float32, and the tokens, less the decoder that they share.

    `fixed_bits` gives every token ceil(log2 K) bits; `entropy_bits` is what an ideal code takes
    that knows how often each code is used, one codebook at a time.
    """

    feature_bits: int
    fixed_bits: int
    entropy_bits: float

    @property
    def ratio(self) -> float:
        """Features to fixed-length tokens; infinite for codebooks of one code."""
        return self.feature_bits / self.fixed_bits if self.fixed_bits else math.inf

    @property
    def entropy_ratio(self) -> float:
        """Features to entropy-coded tokens; infinite where every token is always the same."""
        return self.feature_bits / self.entropy_bits if self.entropy_bits else math.inf


@dataclass(frozen=True)
class TokenReport:
    """Everything measured of a file of tokens. Errors are mean squares of standardized features."""

    samples: int
    distinct: int
    """Different strings of tokens."""
    compression: Compression
    reconstruction: dict[str, float]
    """Error by part of the data: "all", and where the tokenizer's own split is known, the
    operators that it was trained on, and those held out."""
    categories: tuple[Category, ...]
    codebooks: tuple[Codebook, ...]
    judged: int
    """Samples that discriminability was measured on."""
    discriminability: tuple[Discriminability, ...]
    unmeasured: tuple[str, ...]
    """Measures that the data does not allow, and why."""

    def document(self) -> dict[str, Any]:
        """As JSON holds it; an infinite ratio is null."""
        compression = self.compression
        ratios = {"ratio": compression.ratio, "entropy_ratio": compression.entropy_ratio}
        return {
            "samples": self.samples,
            "distinct_token_strings": self.distinct,
            "compression": {
                "feature_bits": compression.feature_bits,
                "fixed_bits": compression.fixed_bits,
                "entropy_bits": compression.entropy_bits,
            }
            | {name: value if math.isfinite(value) else None for name, value in ratios.items()},
            "reconstruction_error": self.reconstruction,
            "categories": [dict(vars(category)) for category in self.categories],
            "codebooks": [
                {**vars(book), "utilization": book.utilization, "perplexity": book.perplexity}
                for book in self.codebooks
            ],
            "samples_judged": self.judged,
            "discriminability": [dict(vars(measure)) for measure in self.discriminability],
            "not_measured": list(self.unmeasured),
        }


def judge(
    tokens: Tokens, dataset: Path, progress: Callable[[int, int], None] | None = None
) -> TokenReport:
    """Judge `tokens` by the HDF5 file that they were made from.

    Raises DatasetError when `dataset` is another one; where it lies does not matter.
    """
    opened = open_dataset(dataset)
    info = opened.info
    if info.fingerprint != tokens.fingerprint:
        raise DatasetError(
            f"{dataset}: not what the tokens were made from: its fingerprint is "
            f"{info.fingerprint}, theirs {tokens.fingerprint} (then at {tokens.dataset})."
        )
    features = standardized_features(
        tokens.tokenizer, opened, range(info.items), windows=tokens.windows, progress=progress
    )
    decoded = tokens.decode().standardized
    errors = (decoded - features).square().double()
    books = codebooks(tokens)
    rows = chosen(tokens.samples[:, 0].numpy())
    measures, unmeasured = _discriminability(tokens, opened, features, decoded, rows)
    return TokenReport(
        samples=len(features),
        distinct=len(torch.unique(tokens.codes, dim=0)),
        compression=Compression(
            feature_bits=32 * features.shape[1],
            fixed_bits=sum(math.ceil(math.log2(book.codes)) for book in books),
            entropy_bits=sum(book.entropy for book in books),
        ),
        reconstruction={
            part: float(errors[members].mean()) for part, members in _parts(tokens, info).items()
        },
        categories=_categories(tokens.tokenizer, errors.mean(0)),
        codebooks=books,
        judged=len(rows),
        discriminability=measures,
        unmeasured=unmeasured,
    )


def codebooks(tokens: Tokens) -> tuple[Codebook, ...]:
    """How each codebook is used by these tokens, category-major."""
    model, names = tokens.tokenizer.vqvae, category_names(tokens.tokenizer)
    levels = model.layout.num_levels
    found = []
    for number, size in enumerate(model.bank.sizes):
        used = torch.bincount(tokens.codes[:, number], minlength=size).double()
        shares = used / used.sum()
        found.append(
            Codebook(
                category=names[number // levels],
                level=number % levels,
                codes=size,
                used=int((used > 0).sum()),
                # 0.0 less the sum: a codebook with one code in use has 0 bits, not -0.
                entropy=0.0 - float(torch.xlogy(shares, shares).sum()) / math.log(2),
            )
        )
    return tuple(found)


def _categories(tokenizer: Tokenizer, errors: Float[Tensor, " D"]) -> tuple[Category, ...]:
    titles, groups = category_titles(tokenizer), tokenizer.categories.groups
    return tuple(
        Category(name, title, len(group), float(errors[list(group)].mean()))
        for name, title, group in zip(category_names(tokenizer), titles, groups, strict=True)
    )


def _parts(tokens: Tokens, info: DatasetInfo) -> dict[str, list[int]]:
    """Rows of the tokens by what the tokenizer has seen of them."""
    parts = {"all": [*range(len(tokens.codes))]}
    if tokens.trained.get("facts", {}).get("data") != info.fingerprint:
        return parts
    config = training_config(tokens.trained["training"], where="the tokenizer's training")
    assert isinstance(config, VQVAETraining)
    known = split(info, config.data, config.seed)
    return parts | {
        part: [item * tokens.windows + w for item in sorted(items) for w in range(tokens.windows)]
        for part, items in (("trained on", known.train), ("held out", known.validation))
    }


def _discriminability(
    tokens: Tokens,
    dataset: TrajectoryDataset,
    features: Float[Tensor, "N D"],
    decoded: Float[Tensor, "N D"],
    rows: Int[np.ndarray, " n"],
) -> tuple[tuple[Discriminability, ...], tuple[str, ...]]:
    operators = tokens.samples[rows, 0].numpy()
    found = spaces(tokens.codes[rows].numpy(), decoded[rows].numpy(), features[rows].numpy())
    info = dataset.info
    named = info.parameter_names
    places = [int(o) * info.realizations for o in operators]
    parameters = dataset.parameters(places).numpy()
    measures = {
        "neighbours: there are fewer than three samples": neighbours(found),
        "retrieval: every operator has one sample; encode several windows": retrieval(
            found, operators
        ),
        "prediction: no parameter varies over the operators": prediction(
            found, operators, parameters, named
        ),
    }
    return (
        tuple(measure for measure in measures.values() if measure is not None),
        tuple(why for why, measure in measures.items() if measure is None),
    )
