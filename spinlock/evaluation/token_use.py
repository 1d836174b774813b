"""The codes that rollouts use, beside those of their truth. N samples, Q codebooks."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from spinlock.evaluation.names import codebook_names
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Pair:
    """One measure of the NOA's rollouts, and the same of the truth."""

    noa: float
    truth: float


@dataclass(frozen=True)
class CodebookUse:
    """How many of its `codes` are used, and their entropy in bits; N samples reach at most N."""

    name: str
    codes: int
    reachable: int
    used: Pair
    entropy: Pair


@dataclass(frozen=True)
class TokenUse:
    """The codebooks, category-major. `agreement` is the share of tokens that a rollout and its
    truth have in common, `agreement_other` the same with the truth of other samples.
    """

    codebooks: tuple[CodebookUse, ...]
    agreement: float
    agreement_other: float

    @property
    def codes(self) -> int:
        return sum(book.codes for book in self.codebooks)

    @property
    def reachable(self) -> int:
        return sum(book.reachable for book in self.codebooks)

    @property
    def used(self) -> Pair:
        return Pair(
            sum(book.used.noa for book in self.codebooks),
            sum(book.used.truth for book in self.codebooks),
        )

    @property
    def utilization(self) -> Pair:
        """Of the codes in reach."""
        return Pair(self.used.noa / self.reachable, self.used.truth / self.reachable)

    @property
    def entropy(self) -> Pair:
        """In bits, the mean over codebooks."""
        count = len(self.codebooks)
        return Pair(
            sum(book.entropy.noa for book in self.codebooks) / count,
            sum(book.entropy.truth for book in self.codebooks) / count,
        )

    def document(self) -> dict[str, Any]:
        """As JSON holds it, with what follows from the codebooks."""
        return {
            **asdict(self),
            "codes": self.codes,
            "reachable": self.reachable,
            "used": asdict(self.used),
            "utilization": asdict(self.utilization),
            "entropy": asdict(self.entropy),
        }


def token_use(tokenizer: Tokenizer, noa: Int[Tensor, "N Q"], truth: Int[Tensor, "N Q"]) -> TokenUse:
    """How rollouts and their truth use the tokenizer's codebooks."""
    count = len(noa)
    books = []
    names, sizes = codebook_names(tokenizer), tokenizer.vqvae.bank.sizes
    for book, (name, size) in enumerate(zip(names, sizes, strict=True)):
        (used, entropy), (used_truth, entropy_truth) = (
            _use(codes[:, book], size) for codes in (noa, truth)
        )
        reachable = min(size, count)
        pairs = Pair(used, used_truth), Pair(entropy, entropy_truth)
        books.append(CodebookUse(name, size, reachable, *pairs))
    same = (noa[:, None] == truth[None, :]).float().mean(2)
    own = same.diagonal().sum()
    return TokenUse(
        tuple(books),
        agreement=float(own / count),
        agreement_other=float((same.sum() - own) / (count * (count - 1))),
    )


def _use(codes: Int[Tensor, " N"], size: int) -> tuple[float, float]:
    """Codes in use, and their entropy in bits."""
    shares = torch.bincount(codes, minlength=size).double() / len(codes)
    return float((shares > 0).sum()), float(-torch.xlogy(shares, shares).sum()) / math.log(2)
