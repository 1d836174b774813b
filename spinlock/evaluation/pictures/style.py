"""What all pictures share: colours that the colour-blind can tell apart, type, and how they are
saved, so that the same run gives the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from spinlock.files import atomic_file

# Paul Tol's bright scheme, and a border that shows on every colour of magma.
BLUE, RED, GREEN, GREY = "#4477AA", "#EE6677", "#228833", "#777777"
BORDER = "#00B7EB"
MARKERS = "os^DvP*X"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 120,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches, in the project's style."""
    with mpl.rc_context(mpl.rcParamsDefault), mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08)
        made = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(made)
        yield made


def save(made: Figure, path: Path) -> None:
    """As a PNG, whole or not at all, without a word of when and by what it was made."""
    with atomic_file(path) as beside:
        made.savefig(beside, format="png", metadata={"Software": None})
