"""The map from features to categories: who correlates with whom, and where the borders run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.patches import Rectangle
from numpy import ndarray

from spinlock.evaluation.pictures.style import BORDER, figure, save


def correlation(features: Float[ndarray, "N D"]) -> Float[ndarray, "D D"]:
    """|r| of every pair of features; none of them may be constant."""
    found: ndarray = np.abs(np.corrcoef(features, rowvar=False))
    return found.reshape(features.shape[1], -1)  # of one feature it is a bare number


def ordered(
    strength: Float[ndarray, "D D"], groups: Sequence[Sequence[int]]
) -> list[Int[ndarray, " n"]]:
    """Each category's features, the ones most like the rest of it first."""
    found = []
    for group in groups:
        members = np.array(group)
        within = strength[np.ix_(members, members)].mean(1)
        found.append(members[np.argsort(-within, kind="stable")])
    return found


def draw_features(
    features: Float[ndarray, "N D"],
    names: Sequence[str],
    groups: Sequence[Sequence[int]],
    titles: Sequence[str],
    path: Path,
) -> None:
    """The matrix of |r|, category by category, with every feature's name."""
    strength = correlation(features)
    members = ordered(strength, groups)
    order = np.concatenate(members)
    side = max(4.0, 0.115 * len(order))
    with figure(side + 6.2, side + 1.2) as made:
        ax = made.subplots()
        image = ax.imshow(strength[np.ix_(order, order)], vmin=0, vmax=1, cmap="magma_r")
        kinds = f"{len(groups)} categories" if len(groups) > 1 else "one category"
        ax.set_title(f"|r| of {len(order)} features in {kinds}")
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks(range(len(order)), [names[i] for i in order], fontsize=6.5)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        first = 0
        for title, group in zip(titles, members, strict=True):
            corner = (first - 0.5, first - 0.5)
            ax.add_patch(
                Rectangle(
                    corner, len(group), len(group), fill=False, edgecolor=BORDER, linewidth=1.6
                )
            )
            middle = first + (len(group) - 1) / 2
            ax.annotate(
                title,
                xy=(len(order) - 0.5, middle),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
            first += len(group)
        made.colorbar(image, ax=ax, label="|r|", location="bottom", shrink=0.4, pad=0.02)
        save(made, path)
