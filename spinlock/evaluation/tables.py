"""A report on tokens as a person reads it."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from spinlock.evaluation.discriminability import CHANCE, Discriminability
from spinlock.evaluation.judge import TokenReport


def tables(report: TokenReport) -> Iterator[RenderableType]:
    """What `spinlock evaluate-tokens` prints."""
    yield _summary(report)
    yield _codebooks(report)
    for measure in report.discriminability:
        yield _scores(measure)
    for why in report.unmeasured:
        yield f"Not measured: {why}."


def _summary(report: TokenReport) -> Table:
    bits = report.compression
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("samples", f"{report.samples}")
    table.add_row("distinct token strings", f"{report.distinct}")
    table.add_row("features, float32", f"{bits.feature_bits} bits per sample")
    table.add_row(
        "tokens, fixed length", f"{bits.fixed_bits} bits per sample, {bits.ratio:.1f} : 1"
    )
    table.add_row(
        "tokens, entropy-coded",
        f"{bits.entropy_bits:.1f} bits per sample, {bits.entropy_ratio:.1f} : 1",
    )
    for part, error in report.reconstruction.items():
        table.add_row(f"reconstruction error, {part}", f"{error:.4f}")
    return table


def _codebooks(report: TokenReport) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Codebooks, level by level")
    table.add_column("category", no_wrap=True, overflow="ellipsis", max_width=20)
    for name in ("features", "error", "codes in use", "entropy, bits"):
        table.add_column(name, justify="right", no_wrap=True)
    for category in report.categories:
        books = [book for book in report.codebooks if book.category == category.name]
        table.add_row(
            category.title,
            f"{category.features}",
            f"{category.error:.4f}",
            " ".join(f"{f'{book.used}/{book.codes}':>5}" for book in books),
            " ".join(f"{book.entropy:4.2f}" for book in books),
        )
    return table


def _scores(measure: Discriminability) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=measure.measure, caption=measure.sentence)
    table.caption_justify = "left"
    table.add_column("")
    for space in measure.scores:
        table.add_column(space, justify="right", style="dim" if space == CHANCE else "")
    for row in next(iter(measure.scores.values())):
        table.add_row(row, *(f"{scores[row]:.3f}" for scores in measure.scores.values()))
    return table
