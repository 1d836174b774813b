"""Codes of all categories and levels on one map.

Codebooks have vectors of different lengths, so they are compared by what they say: a code's
*response* is what the decoder gives when that code stands at its place and every other codebook
at its mean, less what it gives with all of them at their means. Responses are standardized
features for every code, whatever its codebook. Similar responses are drawn near each other by t-SNE
(van der Maaten & Hinton 2008) or UMAP (arXiv:1802.03426); distances between far groups mean
nothing in either.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy import ndarray
from sklearn.manifold import TSNE
from torch import Tensor

from spinlock.errors import SpinlockError
from spinlock.evaluation.pictures.style import GREY, MARKERS, figure, save
from spinlock.vqvae import VQVAE

Embedding = Literal["tsne", "umap"]
_METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
_SEED = 0


@torch.no_grad()
def responses(model: VQVAE) -> Float[Tensor, "R D"]:
    """The response of every code, codebook by codebook, in the order of its codes."""
    bank = model.bank
    shares = bank.counts / bank.counts.sum(1, keepdim=True)
    means = (shares[..., None] * bank.codebooks).sum(1)
    rows = []
    for book, size in enumerate(bank.sizes):
        vectors = means.repeat(size, 1, 1)
        vectors[:, book] = bank.codebooks[book, :size]
        rows.append(vectors)
    flat = model.flatten(torch.cat(rows))
    return model.reconstruct(flat) - model.reconstruct(model.flatten(means[None]))


def embed(points: Float[ndarray, "R D"], how: Embedding) -> Float[ndarray, "R 2"]:
    """Two coordinates for each point; the same points give the same map.

    Raises SpinlockError for UMAP where it is not installed.
    """
    if min(len(points) - 2, points.shape[1]) < 2:  # no neighbours, or no plane: as they are
        return np.pad(points, ((0, 0), (0, 1)))[:, :2]
    if how == "tsne":
        perplexity = min(30.0, (len(points) - 1) / 3)
        made = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(points)
    else:
        check_installed(how)
        from umap import UMAP  # an extra: it brings a compiler of 200 MB

        neighbours = min(15, len(points) - 1)
        made = UMAP(n_neighbors=neighbours, random_state=_SEED, n_jobs=1).fit_transform(points)
    return np.asarray(made)


def check_installed(how: Embedding) -> None:
    """Raises SpinlockError if what `how` needs is not there."""
    if how == "umap" and find_spec("umap") is None:
        raise SpinlockError(
            "--embedding umap: UMAP is not installed. Install it with "
            "`pip install 'spinlock[umap]'`, or use --embedding tsne."
        )


def draw_codes(
    model: VQVAE,
    titles: Sequence[str],
    usage: Sequence[Tensor] | None,
    how: Embedding,
    path: Path,
) -> None:
    """Every code: its category by colour, its level by shape, its share of the samples by size.

    `usage` are counts per codebook; None draws all codes equal. A code that no sample uses is
    hollow.
    """
    place = embed(responses(model).double().numpy(), how)
    levels = model.layout.num_levels
    colours = _colours(len(titles))
    sized = "all drawn equal" if usage is None else "area: share of samples, hollow: unused"
    with figure(11.0, 7.5) as made:
        ax = made.subplots()
        ax.set_title(f"{len(place)} codes by what they say ({_METHODS[how]}), {sized}")
        first = 0
        for book, size in enumerate(model.bank.sizes):
            here = place[first : first + size]
            first += size
            counts = torch.ones(size) if usage is None else usage[book].double()
            share = (counts / counts.sum().clamp_min(1)).numpy() * size
            colour, dead = mpl.colors.to_rgba(colours[book // levels], 0.85), share == 0
            clear, white = (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)
            ax.scatter(
                here[:, 0],
                here[:, 1],
                s=np.where(dead, 18, 14 + 26 * share),
                marker=MARKERS[book % levels % len(MARKERS)],
                facecolors=[clear if empty else colour for empty in dead],
                edgecolors=[colour if empty else white for empty in dead],
                linewidths=[1.1 if empty else 0.6 for empty in dead],
            )
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        _legend(made, titles, colours, levels)
        save(made, path)


def _legend(made: Figure, titles: Sequence[str], colours: Sequence[str], levels: int) -> None:
    def mark(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=colour, label=label, markersize=7)

    categories = [mark("o", c, title) for c, title in zip(colours, titles, strict=True)]
    shapes = [
        mark(MARKERS[level % len(MARKERS)], GREY, f"level {level}") for level in range(levels)
    ]
    for shape in shapes:
        shape.set_markerfacecolor("none")
    made.legend(
        handles=[*categories, *shapes],
        loc="outside right upper",
        title="category",
        fontsize=8,
        ncols=1 + (len(categories) + levels > 36),
    )


def _colours(count: int) -> list[str]:
    """As many colours as categories, none of them grey; beyond 18 from a cyclic scale."""
    # tab20 is ten pairs of a saturated and a pale colour; the eighth pair is grey.
    pairs = [first for first in range(0, 20, 2) if first != 14]
    known = [mpl.colormaps["tab20"](i) for i in (*pairs, *(first + 1 for first in pairs))]
    if count > len(known):
        known = [mpl.colormaps["hsv"](i / count) for i in range(count)]
    return [mpl.colors.to_hex(colour) for colour in known[:count]]
