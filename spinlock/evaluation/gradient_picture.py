"""A gradient diagnosis in one picture: where it explodes, and what the rollout does meanwhile."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator

from spinlock.evaluation.forward import TensorStatistics
from spinlock.evaluation.gradient_window import EXPLODED, LARGE, OVERFLOW
from spinlock.evaluation.gradients import GradientReport
from spinlock.evaluation.pictures.style import BLUE, GREEN, GREY, RED, figure, save
from spinlock.evaluation.verdict import Status

COLOURS = {Status.PASS: GREEN, Status.WARN: "#CC8800", Status.FAIL: RED}


def draw(report: GradientReport, path: Path) -> None:
    """Norms by window, the rollout's reach, every parameter's norm, and the modules' ranges."""
    with figure(13.0, 8.4) as made:
        ((windows, reach), (parameters, modules)) = made.subplots(2, 2)
        made.suptitle(
            f"{report.verdict}: {report.subject}, {report.timesteps} steps",
            color=COLOURS[report.verdict],
            fontweight="bold",
        )
        _windows(windows, report)
        _reach(reach, report)
        _parameters(parameters, report)
        _modules(modules, report)
        save(made, path)


def _windows(ax: Axes, report: GradientReport) -> None:
    norms = report.measured.windows.parameters
    ax.set_title("Gradient norm of L_traj by window")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    windows = np.arange(1, len(norms) + 1)
    finite = np.isfinite(norms) & (np.array(norms) > 0)
    ax.plot(windows[finite], np.array(norms)[finite], color=BLUE)
    marks = [w for w in report.measured.windows.marks() if finite[w - 1]]
    ax.plot(marks, [norms[w - 1] for w in marks], "o", color=BLUE, markersize=4)
    highest = max((n for n, is_finite in zip(norms, finite, strict=True) if is_finite), default=1)
    for limit, said in ((LARGE, "large"), (EXPLODED, "explodes"), (OVERFLOW, "update skipped")):
        if highest > limit / 30 or not finite.all():
            ax.axhline(limit, color=GREY, linewidth=0.8, linestyle="--")
            ax.annotate(said, (1, limit), color=GREY, fontsize=8, va="bottom")
    if not finite.all():
        first = int(windows[~finite][0])
        ax.axvspan(first, len(norms), color=RED, alpha=0.15, linewidth=0)
        ax.annotate(
            "inf or NaN", (first, 1), color=RED, fontsize=8, rotation=90, va="bottom", ha="right"
        )
    ax.axvline(
        report.window, color=GREY, linewidth=1, linestyle=":", label=f"trained: {report.window}"
    )
    if report.fix is not None:
        ax.axvline(report.fix, color=GREEN, linewidth=1.2, label=f"recommended: {report.fix}")
    ax.set_xticks([2**k for k in range(int(math.log2(len(norms))) + 1)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("window, in steps")
    ax.legend(fontsize=8)


def _reach(ax: Axes, report: GradientReport) -> None:
    ax.set_title("Largest value of the rollout by step")
    reach = np.array(report.measured.reach)
    (target,) = (each for each in report.measured.tensors if each.name == "target")
    bound = max(abs(target.minimum), abs(target.maximum))
    steps = np.arange(len(reach))
    finite = np.isfinite(reach)
    ax.plot(steps[finite], reach[finite], color=BLUE, label="rollout")
    ax.axhline(bound, color=GREEN, linewidth=1, linestyle="--", label="targets, at most")
    if not finite.all():
        first = int(steps[~finite][0])
        ax.axvspan(first, len(reach) - 1, color=RED, alpha=0.15, linewidth=0, label="inf or NaN")
    if report.truncated:
        ax.axvspan(
            report.timesteps - report.window,
            report.timesteps,
            color=BLUE,
            alpha=0.1,
            linewidth=0,
            label="window",
        )
    top = max(bound, reach[finite].max(initial=0.0))
    if top > 20 * max(bound, 1e-30):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.1 * top or 1)
    ax.set_xlabel("step")
    ax.legend(fontsize=8)


def _parameters(ax: Axes, report: GradientReport) -> None:
    """A point for each parameter, in the model's order; those that are not finite on top."""
    gradients = report.measured.gradients
    ax.set_title(f"Gradient norm of each of {len(gradients)} parameters, before clipping")
    ax.set_yscale("log")
    norms = np.array([each.norm for each in gradients])
    places = np.arange(len(norms))
    finite = np.isfinite(norms) & (norms > 0)
    ax.plot(places[finite], norms[finite], "o", color=BLUE, markersize=3.5)
    if (~np.isfinite(norms)).any():
        top = 10 * norms[finite].max(initial=1.0)
        bad = places[~np.isfinite(norms)]
        ax.plot(bad, np.full(len(bad), top), "x", color=RED, label="inf or NaN")
        ax.legend(fontsize=8)
    if not finite.any():
        ax.set_yticks([])
        ax.minorticks_off()
    ticks = list(_parts([each.name for each in gradients]))
    ax.set_xticks([(first + last) / 2 for _, first, last in ticks])
    ax.set_xticklabels([name for name, _, _ in ticks], rotation=35, ha="right", fontsize=8)
    for _, first, _ in ticks[1:]:
        ax.axvline(first - 0.5, color="#E5E5E5", linewidth=0.8)
    ax.grid(visible=False, axis="x")


def _parts(names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each part of the model with the places of its first and last parameter."""
    parts = [name.removeprefix("uafno.").partition(".")[0] for name in names]
    for part in dict.fromkeys(parts):
        places = [place for place, found in enumerate(parts) if found == part]
        yield part, places[0], places[-1]


def _modules(ax: Axes, report: GradientReport) -> None:
    """Range and mean ± std of tensors and of the model's larger parts, first on top."""
    ax.set_title("Forward pass: range, mean ± std")
    shown = [
        *(each for each in report.measured.tensors if each.name != "parameters"),
        *(m for m in report.measured.modules if _large(m)),
    ]
    for place, each in enumerate(shown):
        colour = RED if each.bad else BLUE
        ax.plot([each.minimum, each.maximum], [place, place], color=colour, linewidth=1)
        ax.plot(each.mean, place, "|", color=colour, markersize=7)
        middle = [each.mean - each.std, each.mean + each.std]
        ax.plot(middle, [place, place], color=colour, linewidth=4, solid_capstyle="butt")
    ax.set_yticks(range(len(shown)), [each.name for each in shown], fontsize=8)
    for label, each in zip(ax.get_yticklabels(), shown, strict=True):
        label.set_color(RED if each.bad else "black")
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    extremes = [abs(v) for each in shown for v in (each.minimum, each.maximum) if math.isfinite(v)]
    if extremes and max(extremes) > 1e3:
        ax.set_xscale("symlog", linthresh=1.0)
        locator = SymmetricalLogLocator(base=10, linthresh=1.0)
        locator.set_params(numticks=9)
        ax.xaxis.set_major_locator(locator)


def _large(module: TensorStatistics) -> bool:
    name = module.name
    whole = "." not in name or name.split(".")[0] in ("encoder", "bottleneck", "decoder")
    return name.count(".") <= 1 and whole and name not in ("film", "bottleneck")
