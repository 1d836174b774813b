"""Training curves: the loss terms, what the run was selected by, and quality with its targets."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from spinlock.evaluation.pictures.style import BLUE, GREEN, GREY, RED, figure, save
from spinlock.vqvae import TARGETS

History = Sequence[tuple[int, Mapping[str, float | None]]]

_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reconstruction", ("train/reconstruction", "val/reconstruction")),
    ("commitment", ("train/commitment", "val/commitment")),
    ("topography", ("train/topography", "val/topography")),
    ("orthogonality of codes", ("train/orthogonality", "val/orthogonality")),
    ("informativeness", ("train/informativeness", "val/informativeness")),
    ("loss, reference weights", ("val/loss",)),
    ("composite (selects the model)", ("quality/composite",)),
    ("gradient norm before clipping", ("gradient_norm",)),
    ("reconstruction quality", ("quality/reconstruction_quality",)),
    ("codebook utilization", ("quality/utilization",)),
    ("topographic correlation", ("quality/topography",)),
    ("relative commitment", ("val/relative_commitment",)),
)
_COLUMNS = 4
_LOGARITHMIC = 8.0
"""A panel whose values span more than this ratio has a logarithmic axis."""


def draw_curves(history: History, best_epoch: int, path: Path) -> None:
    """One panel per metric, training blue, validation red, the epoch that was kept dotted.

    A panel without a finite value says so.
    """
    rows = math.ceil(len(_PANELS) / _COLUMNS)
    with figure(15.0, 2.9 * rows) as made:
        axes = made.subplots(rows, _COLUMNS, sharex=True).flat
        for ax, (title, names) in zip(axes, _PANELS, strict=True):
            _panel(ax, title, names, history, best_epoch)
        for ax in made.axes[-_COLUMNS:]:
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        save(made, path)


def _panel(ax: Axes, title: str, names: Sequence[str], history: History, best_epoch: int) -> None:
    ax.set_title(title)
    shown: list[float] = []
    for name in names:
        points = [
            (epoch, value)
            for epoch, metrics in history
            if (value := metrics.get(name)) is not None and math.isfinite(value)
        ]
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        shown += values
        marker = "o" if len(points) < 30 else None
        ax.plot(
            epochs, values, color=_colour(name), marker=marker, markersize=3, label=_label(name)
        )
    if not shown:
        ax.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=ax.transAxes)
        ax.set_yticks([])
        return
    ax.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label=f"kept: {best_epoch}")
    _target(ax, names[0].removeprefix("quality/"))
    if min(shown) > 0 and max(shown) > _LOGARITHMIC * min(shown):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="best", fontsize=8)


def _target(ax: Axes, name: str) -> None:
    if name in TARGETS:
        sign, bound = TARGETS[name]
        ax.axhline(
            bound, color=GREEN, linewidth=1, linestyle="--", label=f"target {sign} {bound:g}"
        )


def _colour(name: str) -> str:
    return RED if name.startswith(("val/", "quality/")) else BLUE


def _label(name: str) -> str:
    return "validation" if name.startswith(("val/", "quality/")) else "training"
