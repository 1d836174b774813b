"""A validation as a person reads it."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spinlock.evaluation import alignment_tables
from spinlock.evaluation.alignment_tables import ruled
from spinlock.evaluation.distributions import FALSE_DISCOVERIES
from spinlock.evaluation.gradient_tables import STYLES, heading, sentence
from spinlock.evaluation.trajectory_errors import Against, TrajectoryErrors
from spinlock.evaluation.validation import ValidationReport
from spinlock.evaluation.validation_measurement import ValidationMeasurement

WORST = 8


def tables(report: ValidationReport) -> Iterator[RenderableType]:
    """What `spinlock validate` prints."""
    yield Text(f"Validation of {report.noa} with {report.tokenizer}", style="bold")
    yield f"{report.samples} samples of {report.dataset}, rollouts of {report.timesteps} steps"
    yield from report.notes
    if report.measured is not None:
        yield from _sections(report.measured)
    yield heading(f"Verdict: {report.verdict}", STYLES[report.verdict])
    yield from (sentence(finding) for finding in report.findings)


def _sections(measured: ValidationMeasurement) -> Iterator[RenderableType]:
    yield heading("1. Trajectories")
    yield _errors(measured.trajectories)
    yield _horizon(measured.trajectories.horizon)
    yield heading("2. VQ reconstruction")
    yield alignment_tables.reconstruction(measured.reconstruction)
    absolute = measured.absolute
    yield f"Mean absolute error: rollouts {absolute.noa:.4f}, truth {absolute.truth:.4f}"
    yield heading("3. Distributions of features")
    yield _families(measured)
    yield _worst(measured)
    yield heading("4. Tokens")
    table = alignment_tables.tokens(measured.tokens)
    strings = measured.strings
    table.add_row("different strings of tokens", f"{strings.noa:.0f}", f"{strings.truth:.0f}")
    yield table


def _errors(found: TrajectoryErrors) -> Table:
    table = ruled("error of the frames", "rollouts", "standing still", "ratio")
    for name, each in (
        ("mean square", found.mse),
        ("relative L2", found.relative_l2),
        ("NRMSE", found.nrmse),
    ):
        table.add_row(name, f"{each.noa:.4g}", f"{each.persistence:.4g}", f"{each.ratio:.2f}")
    return table


def _horizon(steps: Sequence[Against]) -> Table:
    """The steps 1, 2, 4, 8, ... and the last."""
    shown = [step for step in (2**k for k in range(20)) if step < len(steps)] + [len(steps)]
    table = ruled("relative L2 at step", *map(str, shown))
    table.add_row("rollouts", *(f"{steps[step - 1].noa:.3f}" for step in shown))
    table.add_row("standing still", *(f"{steps[step - 1].persistence:.3f}" for step in shown))
    return table


def _families(measured: ValidationMeasurement) -> Table:
    table = ruled("means of a family", "KS", "differing", "Wasserstein, σ", "correlation")
    for name, each in measured.families.items():
        table.add_row(
            name.upper(),
            f"{each.ks:.3f}",
            f"{each.differing} of {each.features}",
            f"{each.wasserstein:.3f}",
            "" if each.correlation is None else f"{each.correlation:.3f}",
        )
    count = len(measured.features)
    single = sum(each.p_value < FALSE_DISCOVERIES for each in measured.features)
    table.caption = (
        f"{single} of {count} features have p < {FALSE_DISCOVERIES:g}, where chance alone gives "
        f"{FALSE_DISCOVERIES * count:.0f}. They differ where p is small after a correction for "
        "that many tests."
    )
    table.caption_justify = "left"
    return table


def _worst(measured: ValidationMeasurement) -> Table:
    table = ruled("farthest from the truth", "KS", "p", "Wasserstein, σ")
    for each in sorted(measured.features, key=lambda found: -found.wasserstein)[:WORST]:
        p_value = f"{each.p_value:.2g}{' *' if each.differs else '  '}"
        table.add_row(each.name, f"{each.ks:.3f}", p_value, f"{each.wasserstein:.3f}")
    table.caption = "* differs"
    table.caption_justify = "left"
    return table
