"""A gradient diagnosis as a person reads it: the five parts of the document, and the verdict."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spinlock.evaluation.forward import TensorStatistics
from spinlock.evaluation.gradient_window import EXPLODED, LARGE, OVERFLOW
from spinlock.evaluation.gradients import GradientReport
from spinlock.evaluation.verdict import Finding, Status
from spinlock.training.config import WINDOW_TABLE

STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def tables(
    report: GradientReport, commands: tuple[str, ...], *, whole: bool
) -> Iterator[RenderableType]:
    """What `spinlock diagnose-gradients` prints; `whole` has a line for every module."""
    yield Text(f"Gradients of {report.subject}", style="bold")
    yield f"{report.samples} samples; data: {report.source}"
    yield from report.notes
    yield heading("1. Configuration")
    truncated = f"{report.window}" if report.truncated else f"none: all {report.window} steps"
    yield f"timesteps {report.timesteps}, bptt_window {truncated}, clip_norm {report.clip_norm:g}"
    yield WINDOW_TABLE
    yield heading("2. Forward pass")
    yield _forward(report, whole)
    yield "Loss: " + ", ".join(f"{k} {v:.6g}" for k, v in report.measured.losses.items())
    yield heading("3. Backward pass: parameters with NaN/Inf gradients")
    yield _nonfinite(report)
    yield heading("4. Gradient norms, before clipping")
    yield _norms(report)
    yield heading("5. Gradient norm of L_traj by window")
    yield _windows(report)
    yield heading(f"Verdict: {report.verdict}", STYLES[report.verdict])
    yield from (sentence(finding) for finding in report.findings)
    if report.fix is not None:
        yield Text(f"\nFix: a window of {report.fix}.", style="bold")
        yield from (Text(f"  {command}") for command in commands)


def heading(words: str, style: str = "bold") -> Text:
    return Text(f"\n{words}", style=style)


def sentence(finding: Finding) -> Text:
    return Text.assemble((f"{finding.status} ", STYLES[finding.status]), finding.sentence)


def _forward(report: GradientReport, whole: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for name in ("min", "max", "mean", "std", "NaN", "Inf"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = [
        *report.measured.tensors,
        *(m for m in report.measured.modules if whole or m.bad or m.name.count(".") <= 1),
    ]
    for each in shown:
        table.add_row(*_row(each), style="red" if each.bad else "")
    hidden = len(report.measured.tensors) + len(report.measured.modules) - len(shown)
    if hidden:
        table.caption = f"{hidden} modules inside these are finite, too; --all shows them."
        table.caption_justify = "left"
    return table


def _row(each: TensorStatistics) -> tuple[str, ...]:
    numbers = (each.minimum, each.maximum, each.mean, each.std)
    return (each.name, *(f"{number:.3g}" for number in numbers), f"{each.nan}", f"{each.inf}")


def _nonfinite(report: GradientReport) -> RenderableType:
    bad = report.measured.nonfinite
    if not bad:
        return f"None of {len(report.measured.gradients)}."
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{len(bad)} of {len(report.measured.gradients)}", overflow="fold")
    for name in ("values", "NaN", "Inf"):
        table.add_column(name, justify="right")
    for each in bad:
        table.add_row(each.name, f"{each.values}", f"{each.nan}", f"{each.inf}")
    return table


def _norms(report: GradientReport) -> Table:
    measured = report.measured
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row(
        "all parameters", f"{measured.norm:.4g}", _clipped(measured.norm, report.clip_norm)
    )
    for percentile, value in measured.percentiles.items():
        what = {0: "smallest", 50: "median", 100: "largest"}.get(percentile, f"{percentile} %")
        table.add_row(f"parameters, {what}", f"{value:.3g}")
    still = sum(each.norm == 0 for each in measured.gradients)
    if still:
        table.add_row("parameters without gradient", f"{still}")
    return table


def _clipped(norm: float, limit: float) -> str:
    if not norm < OVERFLOW:
        return "cannot be clipped: the update is skipped"
    return f"clipped: scaled by {limit / norm:.2g}" if norm > limit else "not clipped"


def _windows(report: GradientReport) -> Table:
    windows = report.measured.windows
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("window", "gradient norm", "of the state", ""):
        table.add_column(name, justify="left" if not name else "right")
    for window in windows.marks(report.window):
        norm = windows.of(window)
        said = [_said(norm)]
        if window == report.window:
            said.append("trained with this")
        if window == report.fix:
            said.append("recommended")
        table.add_row(
            f"{window}",
            f"{norm:.3g}",
            f"{windows.state[window - 1]:.3g}",
            ", ".join(filter(None, said)),
        )
    notes = [f"Windows up to the {windows.timesteps} steps of the rollout."]
    if windows.growth is not None:
        notes.append(f"Each step back multiplies the state's gradient by {windows.growth:.3g}.")
    if windows.first_unusable is not None:
        notes.append(f"From a window of {windows.first_unusable} on, an update would be skipped.")
    table.caption, table.caption_justify = " ".join(notes), "left"
    return table


def _said(norm: float) -> str:
    if not norm < OVERFLOW:
        return "update skipped"
    if norm > EXPLODED:
        return "explodes"
    return "large" if norm > LARGE else ""
