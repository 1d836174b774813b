"""Commands about decisions: how good they are on recorded runs."""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli.root import app
from spinlock.errors import ConfigError


@app.command("bench")
def bench_decisions(
    name: Annotated[str, typer.Argument(help="Of which trainable: noa or vqvae.")] = "noa",
    recorded: Annotated[
        Path | None, typer.Option(help="Recorded runs of your own. [default: those shipped]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Pools of runs.")] = 100,
    pool: Annotated[int, typer.Option(min=4, help="Runs in a pool.")] = 64,
    jobs: Annotated[int, typer.Option(min=1, help="Pieces measured at a time.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Also write the tables (.md) and a picture (.png) here.")
    ] = None,
) -> None:
    """Hold schedulers and guards side by side on recorded runs: what they spend and find."""
    from rich.console import Console  # a search's modules are half of a start
    from rich.markdown import Markdown

    from spinlock.search.bench_report import draw, report
    from spinlock.search.recorded import read_recorded, shipped

    runs = read_recorded(recorded) if recorded is not None else shipped(name)
    if runs is None:
        raise ConfigError(f"'{name}': no recorded runs are shipped of it. Give noa or vqvae.")
    for half, told in (("test", "testing"), ("choose", "choosing")):
        held = len(runs.half(half))
        if pool > held:
            raise ConfigError(f"--pool {pool}: the half for {told} has {held} runs. Give fewer.")
    found = report(runs, name, seeds=seeds, size=pool, jobs=jobs)
    Console(width=110).print(Markdown(found.text))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"bench_{name}.md").write_text(found.text, encoding="utf-8")
        draw(found.rows, out / f"bench_{name}.png", title=name)
