"""An alignment as a person reads it: the guide's four sections, its summary, and the verdict."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spinlock.evaluation.alignment import AlignmentReport
from spinlock.evaluation.alignment_judge import Section
from spinlock.evaluation.alignment_measurement import AlignmentMeasurement, Reconstruction
from spinlock.evaluation.gradient_tables import STYLES, heading, sentence
from spinlock.evaluation.token_use import TokenUse

UNMEASURED = "Not measured: it takes the NOA's own projector into these latents."


def tables(report: AlignmentReport) -> Iterator[RenderableType]:
    """What `spinlock diagnose-alignment` prints."""
    yield Text(f"Alignment of {report.noa} with {report.tokenizer}", style="bold")
    yield f"{report.samples} samples of {report.dataset}, rollouts of {report.timesteps} steps"
    yield (
        f"Mean squared error of the rollouts {report.error:.4g}; standing still "
        f"{report.persistence:.4g}"
    )
    yield from report.notes
    if report.measured is not None:
        yield from _sections(report.measured, report.sections)
        yield heading("Overall")
        yield _overall(report)
    yield heading(f"Verdict: {report.verdict}", STYLES[report.verdict])
    yield from (sentence(finding) for finding in report.findings)


def _sections(
    measured: AlignmentMeasurement, graded: tuple[Section, ...]
) -> Iterator[RenderableType]:
    reconstructed, tokenized, correlation, consistency = graded
    yield heading("1. VQ reconstruction quality")
    yield reconstruction(measured.reconstruction)
    yield _graded(reconstructed)
    yield heading("2. Token diversity")
    yield tokens(measured.tokens)
    yield _graded(tokenized)
    yield heading("3. Alignment correlation")
    yield _correlation(measured)
    yield _graded(correlation)
    yield heading("4. Temporal consistency")
    if measured.consistency is not None:
        yield _consistency(measured)
    yield _graded(consistency)


def _graded(section: Section) -> str:
    return UNMEASURED if section.word is None else f"Assessment: {section.word}"


def ruled(*columns: str) -> Table:
    """An empty table with a ruled head, whose first column is words and the others numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=bool(number))
    return table


def reconstruction(found: Reconstruction) -> Table:
    """What the tokenizer loses of rollouts and of the truth, by family."""
    table = ruled("mean squared error", "rollouts", "truth", "ratio")
    for name, pair in {
        "total": found.total,
        **{name.upper(): pair for name, pair in found.families.items()},
    }.items():
        ratio = f"{pair.noa / pair.truth:.2f}" if pair.truth > 0 else ""
        table.add_row(name, f"{pair.noa:.4f}", f"{pair.truth:.4f}", ratio)
    return table


def tokens(found: TokenUse) -> Table:
    """Codes in use, their entropy, and what rollouts and the truth have in common."""
    table = ruled("", "rollouts", "truth")
    use = found.utilization
    table.add_row(
        f"codes used, of {found.reachable} in reach ({found.codes} in all)",
        f"{use.noa:.1%} ({found.used.noa:.0f})",
        f"{use.truth:.1%} ({found.used.truth:.0f})",
    )
    table.add_row("entropy, bits a token", f"{found.entropy.noa:.3f}", f"{found.entropy.truth:.3f}")
    table.add_row("tokens like their own truth's", f"{found.agreement:.1%}", "")
    table.add_row("tokens like another truth's", f"{found.agreement_other:.1%}", "")
    return table


def _correlation(measured: AlignmentMeasurement) -> Table:
    table = ruled("latents compared", "cosine", "MSE", "variance")
    own, projection = measured.resemblance.own, measured.projection
    if projection is not None:
        table.add_row(
            "projection with its rollout (L_latent)",
            f"{projection.mean:.3f} ± {projection.std:.3f}",
            f"{projection.mse:.4f}",
            f"{projection.variance:.4f}",
        )
        table.add_row("the mean with each rollout", f"{projection.blind:.3f}", "", "")
    table.add_row(
        "rollout with its truth",
        f"{own.mean:.3f} ± {own.std:.3f}",
        f"{own.mse:.4f}",
        f"{own.variance:.4f}",
    )
    others = sum(measured.resemblance.others) / len(measured.resemblance.others)
    table.add_row("rollout with other truths", f"{others:.3f}", "", "")
    table.caption = (
        f"{measured.resemblance.identified:.0%} of the rollouts are most alike to their own truth; "
        f"by chance {1 / len(own.cosines):.0%}."
    )
    table.caption_justify = "left"
    return table


def _consistency(measured: AlignmentMeasurement) -> Table:
    table = ruled("norm of projected latents", "rollouts", "true states")
    found = measured.consistency
    assert found is not None
    states = len(found.spreads)
    spread = sum(pair.noa for pair in found.spreads) / states
    spread_truth = sum(pair.truth for pair in found.spreads) / states
    table.add_row(
        "mean ± std of samples",
        f"{found.norm.noa:.3f} ± {spread:.3f}",
        f"{found.norm.truth:.3f} ± {spread_truth:.3f}",
    )
    table.add_row(
        "coefficient of variation in time",
        f"{found.variation.noa:.3f}",
        f"{found.variation.truth:.3f}",
    )
    return table


def _overall(report: AlignmentReport) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for section in report.sections:
        table.add_row(section.grades.measure, section.word or "not measured")
    table.add_row("grade", report.grade)
    return table
