"""How much of each codebook the held-out samples use, as a heatmap of categories and levels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from spinlock.evaluation.pictures.style import figure, save
from spinlock.vqvae import Layout


def draw_usage(
    titles: Sequence[str],
    layout: Layout,
    utilization: Sequence[float],
    perplexity: Sequence[float],
    path: Path,
) -> None:
    """Left the share of codes that are used at all, right how evenly: perplexity over codes.

    Both are per codebook, category-major, and from 0 to 1. Cells tell the numbers behind them.
    """
    sizes = np.array([[level.num_tokens for level in levels] for levels in layout.levels])
    used = np.array(utilization).reshape(sizes.shape)
    even = np.array(perplexity).reshape(sizes.shape) / sizes
    counted = [
        [f"{round(share * size)} of {size}" for share, size in zip(*row, strict=True)]
        for row in zip(used, sizes, strict=True)
    ]
    spread = [
        [f"{share * size:.1f} of {size}" for share, size in zip(*row, strict=True)]
        for row in zip(even, sizes, strict=True)
    ]
    width, height = 3.4 + 1.9 * sizes.shape[1], 1.2 + 0.32 * len(titles)
    with figure(max(8.0, width), max(3.0, height)) as made:
        left, right = made.subplots(1, 2, sharey=True)
        _heatmap(left, used, counted, "codes in use")
        _heatmap(right, even, spread, "perplexity: codes as if evenly used")
        left.set_yticks(range(len(titles)), titles)
        made.colorbar(left.images[0], ax=[left, right], label="share of the codebook", pad=0.02)
        save(made, path)


def _heatmap(ax: Axes, shares: Float[ndarray, "G L"], texts: list[list[str]], title: str) -> None:
    ax.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    ax.set_title(title)
    ax.set_xticks(range(shares.shape[1]), [f"level {level}" for level in range(shares.shape[1])])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for row, column in np.ndindex(shares.shape):
        dark = shares[row, column] < 0.55
        ax.text(
            column,
            row,
            texts[row][column],
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
