"""An alignment in one picture, a panel for each of its sections."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from spinlock.evaluation.alignment import AlignmentReport
from spinlock.evaluation.alignment_judge import ENTROPY_RATIO, GRADES
from spinlock.evaluation.alignment_measurement import AlignmentMeasurement, Reconstruction
from spinlock.evaluation.gradient_picture import COLOURS
from spinlock.evaluation.pictures.style import BLUE, GREEN, GREY, RED, figure, save
from spinlock.evaluation.token_use import TokenUse

WIDTH, BINS = 0.38, 24


def draw(report: AlignmentReport, path: Path) -> None:
    """Rollouts blue, truth green. Where too few rollouts were finite, the picture says so."""
    with figure(13.0, 8.4) as made:
        made.suptitle(
            f"{report.verdict}, {report.grade}: {report.noa} with {report.tokenizer}, "
            f"{report.samples} rollouts of {report.timesteps} steps",
            color=COLOURS[report.verdict],
            fontweight="bold",
        )
        if report.measured is None:
            made.text(0.5, 0.5, report.findings[0].sentence, ha="center", color=RED)
        else:
            ((reconstruction, tokens), (cosines, norms)) = made.subplots(2, 2)
            draw_reconstruction(reconstruction, report.measured.reconstruction)
            draw_tokens(tokens, report.measured.tokens)
            _cosines(cosines, report.measured)
            _norms(norms, report.measured)
            for ax, section in zip(made.axes, report.sections, strict=True):
                if section.word is not None:
                    colour = COLOURS[section.grades.status(section.value or 0.0)]
                    ax.set_title(section.word, loc="right", color=colour)
        save(made, path)


def draw_reconstruction(ax: Axes, found: Reconstruction) -> None:
    """A pair of bars in all and for each family, and the limits of the grades."""
    pairs = {"total": found.total, **found.families}
    ax.set_title("1. Reconstruction error")
    places = np.arange(len(pairs))
    for shift, colour, label, values in (
        (-WIDTH / 2, BLUE, "rollouts", [pair.noa for pair in pairs.values()]),
        (WIDTH / 2, GREEN, "truth", [pair.truth for pair in pairs.values()]),
    ):
        drawn = ax.bar(places + shift, values, WIDTH, color=colour, label=label)
        ax.bar_label(drawn, fmt="%.3g", fontsize=8)
    ax.set_yscale("log")
    limits = GRADES[0].limits
    for limit, word in zip(limits, GRADES[0].words, strict=False):
        ax.axhline(limit, color=GREY, linewidth=0.8, linestyle="--")
        ax.annotate(
            word, (1, limit), xycoords=("axes fraction", "data"), color=GREY, fontsize=8,
            ha="right", va="top",
        )  # fmt: skip
    values = [v for pair in pairs.values() for v in (pair.noa, pair.truth) if v > 0]
    ax.set_ylim(min([*values, limits[0]]) / 2, max([*values, limits[-1]]) * 3)
    ax.set_xticks(places, list(pairs))
    ax.grid(visible=False, axis="x")
    ax.legend(loc="upper left", ncols=2, fontsize=8)


def draw_tokens(ax: Axes, found: TokenUse) -> None:
    """A point for each codebook: below the line, rollouts are less diverse than the truth."""
    use = found.utilization
    ax.set_title("2. Entropy of each codebook, bits")
    truth = [book.entropy.truth for book in found.codebooks]
    noa = [book.entropy.noa for book in found.codebooks]
    most = 1.05 * max([*truth, *noa, 0.1])
    ax.plot(truth, noa, "o", color=BLUE, markersize=5, alpha=0.8)
    ax.plot([0, most], [0, most], color=GREY, linewidth=0.8)
    ax.plot(
        [0, most],
        [0, ENTROPY_RATIO.limit * most],
        color=GREY,
        linewidth=0.8,
        linestyle="--",
        label=f"{ENTROPY_RATIO.limit:g} of the truth's",
    )
    ax.set_xlim(0, most)
    ax.set_ylim(0, most)
    ax.set_xlabel("truth")
    ax.set_ylabel("rollouts")
    ax.annotate(
        f"codes used: {use.noa:.0%} by rollouts, {use.truth:.0%} by the truth\n"
        f"tokens in common: {found.agreement:.0%} with its truth, "
        f"{found.agreement_other:.0%} with others",
        (0.03, 0.97),
        xycoords="axes fraction",
        va="top",
        fontsize=8,
    )
    ax.legend(loc="lower right", fontsize=8)


def _cosines(ax: Axes, measured: AlignmentMeasurement) -> None:
    ax.set_title("3. Cosine of latents")
    found = measured.resemblance
    shown = [
        ("rollout, its truth", found.own.cosines, BLUE, True),
        ("rollout, other truths (means)", found.others, GREY, False),
    ]
    if measured.projection is not None:
        shown.append(("projection, its rollout", measured.projection.cosines, RED, False))
    every = [value for _, values, _, _ in shown for value in values]
    bins = np.linspace(min([*every, 0.0]), 1.0, BINS + 1)
    for label, values, colour, filled in shown:
        ax.hist(
            values,
            bins=bins.tolist(),
            color=colour,
            histtype="stepfilled" if filled else "step",
            alpha=0.5 if filled else 1.0,
            linewidth=1.4,
            label=f"{label}: {np.mean(values):.3f}",
        )
    ax.set_xlabel("cosine")
    ax.set_ylabel("samples")
    ax.legend(fontsize=8, loc="upper left")


def _norms(ax: Axes, measured: AlignmentMeasurement) -> None:
    ax.set_title("4. Norm of projected latents")
    found = measured.consistency
    if found is None:
        ax.text(0.5, 0.5, "no projector to measure", ha="center", transform=ax.transAxes)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    states = np.arange(len(found.norms))
    for label, colour, variation, means, spreads in (
        (
            "rollouts",
            BLUE,
            found.variation.noa,
            [pair.noa for pair in found.norms],
            [pair.noa for pair in found.spreads],
        ),
        (
            "true states",
            GREEN,
            found.variation.truth,
            [pair.truth for pair in found.norms],
            [pair.truth for pair in found.spreads],
        ),
    ):
        middle, width = np.array(means), np.array(spreads)
        ax.plot(states, middle, color=colour, label=f"{label}: varies by {variation:.1%}")
        ax.fill_between(states, middle - width, middle + width, color=colour, alpha=0.12)
    ax.set_ylim(0, 1.3 * max(max(pair.noa, pair.truth) for pair in found.norms))
    ax.set_xlabel("state of the window")
    ax.legend(fontsize=8, loc="lower left")
