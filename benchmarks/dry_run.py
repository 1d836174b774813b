"""What a dry run foretells of a search, and what the search then takes.

    python benchmarks/dry_run.py noa --work DIRECTORY [--trials 32] [--first 0] [--seeds 3]
    python benchmarks/dry_run.py vqvae --work DIRECTORY

Searches of the space of benchmarks/curves/NAME.yaml on its data: TPE, promotion, certified guards,
two trials at a time, each one thread. Each is foretold right before it, as --dry-run does. Writes
benchmarks/results/dry_run_NAME.md.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from against_stock import AT_ONCE, RUNGS
from record import ready

from spinlock.artifact import provenance
from spinlock.files import atomic_file
from spinlock.search.certificate import CERTIFIED
from spinlock.search.forecast import Range, forecast
from spinlock.search.outlook import outlook
from spinlock.search.space import Study
from spinlock.search.study import run
from spinlock.search.trainables import TRAINABLES

RESULTS = Path(__file__).parent / "results"
SAMPLES = 3  # points that a dry run rehearses


@dataclass(frozen=True)
class Row:
    """Epochs and seconds, as foretold and as they were."""

    epochs: Range
    trained: int
    wall: Range
    took: float


def main(
    name: Annotated[Literal["noa", "vqvae"], typer.Argument(help="What is trained.")],
    work: Annotated[Path, typer.Option(help="Where data and searches are kept.")],
    trials: Annotated[int, typer.Option(min=1)] = 32,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    given, rows = ready(name, work.resolve()), list[Row]()
    rungs, factor = RUNGS[name]
    for seed in range(first, first + seeds):
        study = Study.model_validate(
            given.model_dump()
            | {
                "seed": seed,
                "trials": trials,
                "searcher": {"kind": "tpe"},
                "scheduler": {"kind": "promotion", "rungs": rungs, "reduction_factor": factor},
                "guards": [guard.model_dump() for guard in CERTIFIED[name]],
                "resources": {"execution": "in_process", "concurrent": AT_ONCE},
            }
        )
        rows.append(searched(study, name, work.resolve() / "dry_run" / f"{name}-{seed}"))
        print(rows[-1], flush=True)
    text = page(name, first, rows, trials, int(given.training["epochs"]))
    with atomic_file(RESULTS / f"dry_run_{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def searched(study: Study, name: str, place: Path) -> Row:
    trainable, epochs = TRAINABLES[name], int(study.training["epochs"])
    told = forecast(study, trainable, epochs=epochs)
    seen = outlook(study, trainable, study.sample(SAMPLES))
    assert told is not None
    assert seen is not None
    wall = told.wall(study, seen.paces, seen.start)
    begun = time.perf_counter()
    found = run(study, trainable, Path(f"{place}-{time.time():.0f}"), dashboard=False)
    took = time.perf_counter() - begun
    trained = sum(len(trial.history) for trial in found.ledger.trials.values())
    return Row(told.epochs, trained, wall, took)


def page(name: str, first: int, rows: list[Row], trials: int, epochs: int) -> str:
    facts = provenance()
    lines = [
        f"# Foretold by a dry run, and taken: {name}",
        "",
        f"Made by `python benchmarks/dry_run.py {name}`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, {os.cpu_count()} cores.",
        f"Searches of {trials} trials of {epochs} epochs, by TPE, promotion and the certified "
        "guards, two at a time. Foretold: the mean of games on recorded runs, and nine in "
        "ten of them.",
        "",
        "| seed | epochs foretold | trained | | seconds foretold | taken | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {seed} | {_range(row.epochs)} | {row.trained} | {_off(row.epochs.mean, row.trained)} "
        f"| {_range(row.wall)} | {row.took:.0f} | {_off(row.wall.mean, row.took)} |"
        for seed, row in enumerate(rows, start=first)
    ]
    of_epochs = _off(sum(r.epochs.mean for r in rows), sum(r.trained for r in rows))
    of_seconds = _off(sum(r.wall.mean for r in rows), sum(r.took for r in rows))
    within = sum(row.epochs.low <= row.trained <= row.epochs.high for row in rows)
    return "\n".join(
        [
            *lines,
            f"| all | | | {of_epochs} | | | {of_seconds} |",
            "",
            f"{within} of {len(rows)} searches trained within what nine games in ten did.",
            "",
        ]
    )


def _off(told: float, found: float) -> str:
    return f"{told / found - 1:+.0%}"


def _range(found: Range) -> str:
    return f"{found.mean:.0f} ({found.low:.0f} to {found.high:.0f})"


if __name__ == "__main__":
    typer.run(main)
