"""A validation in pictures, and on one page that holds them all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from spinlock.evaluation.alignment_picture import draw_reconstruction, draw_tokens
from spinlock.evaluation.distributions import QUANTILES, FeatureComparison
from spinlock.evaluation.pictures.draw import PAGE
from spinlock.evaluation.pictures.page import Section, section_html, table_html, write_html
from spinlock.evaluation.pictures.style import BLUE, GREEN, GREY, RED, figure, save
from spinlock.evaluation.validation import ValidationReport
from spinlock.evaluation.validation_judge import DISTANCE
from spinlock.evaluation.validation_measurement import ValidationMeasurement
from spinlock.files import own_directory

WORST = 12


def draw(report: ValidationReport, out: Path) -> Path:
    """Write PNG files and the page into `out`; gives the page. Rollouts blue, truth green."""
    own_directory(out, "pictures")
    sections = [] if report.measured is None else _pictures(report.measured, out)
    page = out / PAGE
    write_html(
        page,
        f"{report.verdict}: {report.noa} with {report.tokenizer}",
        f"{report.samples} samples of {report.dataset}, rollouts of {report.timesteps} steps. "
        + " ".join(report.notes),
        [
            "<h2>Findings</h2>",
            table_html(("", ""), [(each.status.value, each.sentence) for each in report.findings]),
            *map(section_html, sections),
            *(() if report.measured is None else ("<h2>Features</h2>", _table(report.measured))),
        ],
    )
    return page


def _pictures(measured: ValidationMeasurement, out: Path) -> list[Section]:
    with figure(11.0, 4.0) as made:
        left, right = made.subplots(1, 2)
        _horizon(left, measured)
        draw_reconstruction(right, measured.reconstruction)
        right.set_title("Error of the tokenizer")
        save(made, out / "errors.png")
    with figure(11.0, 4.0) as made:
        left, right = made.subplots(1, 2)
        _distances(left, measured)
        draw_tokens(right, measured.tokens)
        right.set_title("Entropy of each codebook, bits")
        save(made, out / "distributions.png")
    with figure(11.0, 0.45 * WORST + 1.4) as made:
        worst = sorted(measured.features, key=lambda found: -found.wasserstein)[:WORST]
        _boxes(made.subplots(), worst)
        save(made, out / "features.png")
    return [
        Section(
            "Errors",
            "Left: the relative L2 of each step by itself. Right: mean squared errors of "
            "standardized features after encoder, codes and decoder.",
            out / "errors.png",
        ),
        Section(
            "Distributions and tokens",
            "Left: a point for each feature, filled where its distribution differs from the "
            "truth's after correction for the number of features. Right: a point for each "
            "codebook.",
            out / "distributions.png",
        ),
        Section(
            "The features farthest from the truth",
            f"Boxes hold the middle half of the samples, whiskers nine tenths; in all {WORST} at "
            "most, the farthest first.",
            out / "features.png",
        ),
    ]


def _horizon(ax: Axes, measured: ValidationMeasurement) -> None:
    steps = measured.trajectories.horizon
    places = np.arange(1, len(steps) + 1)
    marker = "o" if len(steps) < 30 else ""
    ax.plot(places, [x.noa for x in steps], color=BLUE, marker=marker, ms=3, label="rollouts")
    still = [x.persistence for x in steps]
    ax.plot(places, still, color=GREY, marker=marker, ms=3, label="standing still")
    ax.set_title("Relative L2 by horizon")
    ax.set_xlabel("step")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)


def _distances(ax: Axes, measured: ValidationMeasurement) -> None:
    ax.set_title("Distance of each feature")
    for colour, family in zip((GREY, BLUE, RED), measured.families, strict=False):
        found = [each for each in measured.features if each.name.partition(".")[0] == family]
        for differs in (False, True):
            points = [each for each in found if each.differs is differs]
            ax.plot(
                [each.ks for each in points],
                [each.wasserstein for each in points],
                "o",
                color=colour,
                markersize=4,
                markerfacecolor=colour if differs else "none",
                label=family if differs is bool(found[0].differs) else None,
            )
    for limit, word in zip(DISTANCE.limits, DISTANCE.words, strict=False):
        ax.axhline(limit, color=GREY, linewidth=0.8, linestyle="--")
        ax.annotate(
            word, (1, limit), xycoords=("axes fraction", "data"), color=GREY, fontsize=8,
            ha="right", va="top",
        )  # fmt: skip
    ax.set_xlabel("Kolmogorov-Smirnov")
    ax.set_ylabel("Wasserstein, standard deviations")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, loc="upper left")


def _boxes(ax: Axes, features: Sequence[FeatureComparison]) -> None:
    """For each feature the truth's box above the rollouts'."""
    for shift, colour, side in ((-0.2, GREEN, "truth"), (0.2, BLUE, "noa")):
        drawn = ax.bxp(
            [_box(getattr(each, side)) for each in features],
            positions=[place + shift for place in range(len(features))],
            widths=0.34,
            orientation="horizontal",
            showfliers=False,
            patch_artist=True,
            medianprops={"color": "black"},
        )
        for box in drawn["boxes"]:
            box.set_facecolor(colour)
            box.set_alpha(0.6)
    ax.set_yticks(range(len(features)), [each.name for each in features], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("standardized")
    ax.legend(
        handles=[Patch(color=GREEN, alpha=0.6), Patch(color=BLUE, alpha=0.6)],
        labels=["truth", "rollouts"],
        fontsize=8,
    )


def _box(quantiles: Sequence[float]) -> dict[str, float]:
    at = dict(zip(QUANTILES, quantiles, strict=True))
    return {
        "whislo": at[0.05],
        "q1": at[0.25],
        "med": at[0.5],
        "q3": at[0.75],
        "whishi": at[0.95],
    }


def _table(measured: ValidationMeasurement) -> str:
    return table_html(
        ("feature", "KS", "p", "differs", "Wasserstein, σ", "correlation"),
        [
            (
                each.name,
                f"{each.ks:.3f}",
                f"{each.p_value:.2g}",
                "yes" if each.differs else "",
                f"{each.wasserstein:.3f}",
                "" if each.correlation is None else f"{each.correlation:.3f}",
            )
            for each in sorted(measured.features, key=lambda found: -found.wasserstein)
        ],
    )
