"""Names for what a tokenizer has only numbered."""

from collections import Counter

from spinlock.training.outputs import labelled
from spinlock.vqvae import Tokenizer


def category_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The categories' names in files: the user's own, or category_0, category_1, ..."""
    return tuple(labelled(tokenizer.categories))


def category_titles(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The same for people: a category that has only a number is told by its commonest features.

    Those are the first two parts of their names: "3 temporal.spectral". Ties go to the first in
    the alphabet.
    """
    if tokenizer.categories.names:
        return tokenizer.categories.names
    names = tokenizer.standardizer.names
    found = []
    for number, group in enumerate(tokenizer.categories.groups):
        kinds = Counter(".".join(names[i].split(".")[:2]) for i in group)
        found.append(f"{number} {min(kinds, key=lambda kind: (-kinds[kind], kind))}")
    return tuple(found)


def codebook_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """A name for each codebook, category-major: category_0/level_0, category_0/level_1, ..."""
    levels = range(tokenizer.vqvae.layout.num_levels)
    return tuple(f"{name}/level_{level}" for name in category_names(tokenizer) for level in levels)
