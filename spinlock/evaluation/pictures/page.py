"""Pictures and their numbers on one HTML page that needs nothing but itself."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from spinlock.files import atomic_file
from spinlock.vqvae import TARGETS

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { color: #666; margin-top: .2rem; } p.absent { border-left: 4px solid #EE6677;
  padding: .4rem .8rem; background: #fdf1f2; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1.2rem .25rem 0;
  border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.met { color: #1b6e2a; font-weight: 600; } .missed { color: #b3273a; font-weight: 600; }
figure { margin: 0; overflow-x: auto; } img { max-width: 100%; height: auto; }
summary { cursor: pointer; }
"""


@dataclass(frozen=True)
class Section:
    """A picture with its text, or the reason why there is none."""

    title: str
    text: str
    picture: Path | None
    absent: str = ""


@dataclass(frozen=True)
class CategoryRow:
    """One category for the table: its own numbers are None until the run has ended."""

    title: str
    features: Sequence[str]
    reconstruction: float | None
    codes: Sequence[int]


def verdict(name: str, reached: float | None) -> str:
    """ "met", "missed", or "not measured", of a metric of TARGETS."""
    if reached is None or not math.isfinite(reached):
        return "not measured"
    sign, bound = TARGETS[name]
    return "met" if (reached > bound if sign == ">" else reached < bound) else "missed"


def write_page(
    path: Path,
    *,
    heading: str,
    note: str,
    metrics: Mapping[str, float | None],
    categories: Sequence[CategoryRow],
    sections: Sequence[Section],
) -> None:
    """Write a run's page; the sections' pictures are read from where they lie."""
    write_html(
        path,
        heading,
        note,
        [
            "<h2>Metrics</h2>",
            _targets(metrics),
            *(section_html(section) for section in sections),
            "<h2>Categories</h2>",
            _categories(categories),
        ],
    )


def write_html(path: Path, heading: str, note: str, parts: Sequence[str]) -> None:
    """Write a page of `parts`, which are HTML."""
    body = "\n".join([f"<h1>{escape(heading)}</h1>", f'<p class="note">{escape(note)}</p>', *parts])
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    with atomic_file(path) as beside:
        beside.write_text(page, encoding="utf-8")


def _targets(metrics: Mapping[str, float | None]) -> str:
    rows = []
    for name, (sign, bound) in TARGETS.items():
        reached = metrics.get(f"quality/{name}")
        said = verdict(name, reached)
        rows.append(
            f"<tr><td>{escape(name.replace('_', ' '))}</td>{_number(reached)}"
            f"<td>{escape(sign)} {bound:g}</td>"
            f'<td class="{said.partition(" ")[0]}">{said}</td></tr>'
        )
    head = "<tr><th>held-out samples</th><th>reached</th><th>target</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _categories(rows: Sequence[CategoryRow]) -> str:
    shown = "".join(
        f"<tr><td>{escape(row.title)}</td>{_number(row.reconstruction)}"
        f"<td>{' / '.join(map(str, row.codes))}</td>"
        f"<td><details><summary>{len(row.features)} features</summary>"
        f"{'<br>'.join(map(escape, row.features))}</details></td></tr>"
        for row in rows
    )
    head = (
        "<tr><th>category</th><th>reconstruction quality</th><th>codes per level</th>"
        "<th>features</th></tr>"
    )
    return f"<table>{head}{shown}</table>"


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def section_html(section: Section) -> str:
    """Its heading, its text, and the picture itself or why there is none."""
    parts = [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>"]
    if section.picture is None:
        parts.append(f'<p class="absent">{escape(section.absent)}</p>')
    else:
        data = base64.b64encode(section.picture.read_bytes()).decode("ascii")
        alt = escape(section.title, quote=True)
        parts.append(f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>')
    return "\n".join(parts)


def _number(value: float | None) -> str:
    shown = "–" if value is None or not math.isfinite(value) else f"{value:.4f}"
    return f'<td class="number">{shown}</td>'
