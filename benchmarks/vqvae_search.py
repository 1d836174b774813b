"""One search for the best tokenizer, against the default.

    python benchmarks/vqvae_search.py --work DIRECTORY

Runs `launch/tune_vqvae.py --space search_spaces/vqvae.yaml` under Ray Train (or takes it up where
it stands in --work), exports its best trial and trial 0, the documented default, trains the
production recipe as it is shipped on the same data, and scores all three on as many operators of
the same family that none of them has seen. Writes benchmarks/results/vqvae_search.md.
"""

import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from spinlock.artifact import provenance
from spinlock.data import open_dataset
from spinlock.files import atomic_file
from spinlock.training.config import CompositeConfig
from spinlock.training.features import raw_features
from spinlock.training.vqvae_task import scores
from spinlock.vqvae import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "vqvae_search.md"
FAMILY = ROOT / "launch" / "default" / "dataset-vqvae.yaml"
METRICS = ("composite", "reconstruction_quality", "utilization", "topography")
BATCH = 4096


def main(work: Annotated[Path, typer.Option(help="Where data and trials are kept.")]) -> None:
    experiment, artifacts = work / "experiment", work / "artifacts"
    said = python(
        *("launch/tune_vqvae.py", "--space", "search_spaces/vqvae.yaml", "--resume"),
        *("--experiment", experiment, "--artifacts", artifacts),
    )
    (data,) = artifacts.glob("dataset*.h5")
    fresh = work / "fresh.h5"
    if not fresh.exists():
        spinlock("generate", fresh, "--config", FAMILY, "--set", "seed=1")
    models = {"best trial": work / "best", "trial 0, the default": work / "default"}
    exported = []
    for path, chosen in zip(models.values(), ((), ("--trial", 0)), strict=True):
        if not path.exists():
            exported.append(python("launch/export_best.py", experiment, "--out", path, *chosen))
    if not (work / "production" / "metrics.json").exists():
        given = ("--input", data, "--output", work / "production")
        spinlock(
            "train-vqvae", "--config", "production", *given, "--set", "use_torch_compile=false"
        )
    models["production recipe"] = work / "production" / "best_model"
    rows: list[dict[str, Any]] = pq.read_table(experiment / "trials.parquet").to_pylist()
    with atomic_file(RESULT) as path:
        path.write_text(page(rows, said, exported, models, fresh), encoding="utf-8")
    print(RESULT.read_text())


def python(*words: object) -> str:
    """What a script of the project prints; it is shown as it comes, too."""
    told = []
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            told.append(line)
    if process.returncode:
        raise SystemExit(process.returncode)
    return "".join(told)


def spinlock(*words: object) -> None:
    python("-m", "spinlock.cli", *words)


def page(
    rows: list[dict[str, Any]],
    said: str,
    exported: list[str],
    models: dict[str, Path],
    fresh: Path,
) -> str:
    facts = provenance()
    spent = next(line for line in said.splitlines() if line.startswith("time "))
    rules = Counter(row["rule"] for row in rows)
    (best,) = (row for row in rows if row["leads"])
    lines = [
        "# One search for the best tokenizer",
        "",
        f"Made by `python benchmarks/vqvae_search.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}: `python launch/tune_vqvae.py --space search_spaces/vqvae.yaml` "
        f"on data made on the spot, {os.cpu_count()} cores ({platform.machine()}), no GPU, other "
        f"work beside it. {len(rows)} trials; ended by "
        + ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
        + ".",
        "",
        f"    {spent}",
        "",
        "Those that ran to their end, by the composite on held-out operators, lower is better. "
        "Trial 0 is the documented default as the space's file fits it to this data; ASHA spares "
        "it, so it is seen to its end.",
        "",
        "| trial | best epoch | " + " | ".join(METRICS) + " |",
        "|---|---|" + "---|" * len(METRICS),
    ]
    for row in sorted(rows, key=lambda row: value(row, "composite")):
        if row["state"].lower() == "completed":
            cells = [f"{value(row, metric):.4f}" for metric in METRICS]
            lines.append(f"| {row['trial']} | {row['best_epoch']} | {' | '.join(cells)} |")
    settings = {k: v for k, v in best.items() if k.startswith("param/") and v is not None}
    lines += [
        "",
        f"Settings of trial {best['trial']}: "
        + ", ".join(f"`{k.removeprefix('param/')}: {v:.4g}`" for k, v in settings.items())
        + ".",
        "",
        "Exports, evaluated again from disk: " + " ".join(map(reproduced, exported)),
        "",
        f"On {open_dataset(fresh).info.operators} operators that none has seen, neither to learn "
        "from nor to be chosen by (seed 1 of the same family):",
        "",
        "| tokenizer | " + " | ".join(METRICS) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for name, path in models.items():
        found = on(path, fresh)
        cells = [f"{found[f'quality/{metric}']:.4f}" for metric in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "The production recipe is the shipped one, not fitted to this data: 410 epochs, batches of "
        "1,024 or all there is, a tenth held out.",
    ]
    return "\n".join(lines) + "\n"


def value(row: dict[str, Any], metric: str) -> float:
    return float(row[f"best/quality/{metric}"])


def reproduced(said: str) -> str:
    return said.splitlines()[-1].partition(";")[0] + "."


def on(model: Path, dataset: Path) -> dict[str, float]:
    """The scores of validation on all operators of a file."""
    tokenizer, data = Tokenizer.load(model), open_dataset(dataset)
    raw = raw_features(data, range(data.info.operators), tokenizer.feature_config, tokenizer.frames)
    standardized = tokenizer.standardizer(raw.values.float())
    weights = CompositeConfig().model_dump(exclude={"use_composite"})
    return scores(tokenizer.vqvae, standardized, BATCH, **weights)


if __name__ == "__main__":
    typer.run(main)
