"""What the tokenizer reaches on real and generated data, against the documented targets.

    python benchmarks/tokenizer.py --data DIRECTORY --work DIRECTORY

trains every run of RUNS by `spinlock train-vqvae` (those that stand in --work already are not
trained again) and writes benchmarks/results/tokenizer.md. About an hour on two cores.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from spinlock.artifact import provenance
from spinlock.files import atomic_file
from spinlock.vqvae import TARGETS

RESULT = Path(__file__).parent / "results" / "tokenizer.md"
GENERATED = """\
operators: 2560
seed: 0
grid: 32
frames: 33
features: true
domain:
  kind: cno
  dt: 0.1
  num_layers: {kind: integer, low: 2, high: 3}
  base_channels: {kind: integer, low: 8, high: 16}
  noise_scale: {kind: log, low: 1e-5, high: 1e-2}
"""
WINDOWS = ("frames=33", "windows=16", "lr_schedule=cosine", "val_every_n_epochs=10")
MANY = ("num_categories_auto=30", "min_features_per_category=2")
STORED = (
    "features.source=stored",
    "features.families=[initial/aggregated,summary/per_trajectory,temporal]",
)


@dataclass(frozen=True)
class Run:
    """One training: a name, a data file, a shipped recipe and what differs from it."""

    name: str
    data: str
    settings: tuple[str, ...] = ()
    recipe: str = "quick"


RUNS = (
    Run("ns", "ns_kolmogorov_exponax.h5", ("frames=33",)),
    Run("ns16", "ns_kolmogorov_exponax.h5", ("frames=33", "windows=16")),
    Run("nsK30", "ns_kolmogorov_exponax.h5", (*WINDOWS, "epochs=80", *MANY)),
    Run("gs", "rd_grayscott_exponax.h5", ("frames=33",)),
    Run("gs16", "rd_grayscott_exponax.h5", (*WINDOWS, "epochs=100")),
    Run("wv", "wave_medium_deepwave.h5", ("frames=33",)),
    Run("wv16", "wave_medium_deepwave.h5", (*WINDOWS, "epochs=100")),
    Run("wvK30", "wave_medium_deepwave.h5", (*WINDOWS, "epochs=80", *MANY)),
    Run("pm", "prototype_mid.h5", STORED),
    Run("pmK30", "prototype_mid.h5", (*STORED, *WINDOWS[2:], "epochs=150", *MANY)),
    Run("ops", "generated", ("batch_size=256", "epochs=120")),
    Run("production", "generated", ("use_torch_compile=false",), "production"),
)


def main(
    data: Annotated[Path, typer.Option(help="Where the real files are.")],
    work: Annotated[Path, typer.Option(help="Where runs and the generated file are kept.")],
) -> None:
    for run in RUNS:
        train(run, data, work)
    with atomic_file(RESULT) as path:
        path.write_text(_page(work), encoding="utf-8")
    print(RESULT.read_text())


def train(run: Run, data: Path, work: Path) -> Path:
    """The run's output directory under `work`; trained if it does not stand there."""
    work.mkdir(parents=True, exist_ok=True)
    place = work / f"m_{run.name}"
    if not (place / "metrics.json").exists():
        source = _generated(work) if run.data == "generated" else data / run.data
        command = [sys.executable, "-m", "spinlock.cli", "train-vqvae"]
        command += ["--config", run.recipe, "--input", str(source), "--output", str(place)]
        command += [word for setting in run.settings for word in ("--set", setting)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return place


def _generated(work: Path) -> Path:
    path, recipe = work / "generated.h5", work / "generated.yaml"
    if not path.exists():
        recipe.write_text(GENERATED)
        command = [sys.executable, "-m", "spinlock.cli", "generate", str(path)]
        subprocess.run([*command, "--config", str(recipe)], check=True)
    return path


def _page(work: Path) -> str:
    facts = provenance()
    lines = [
        "# The tokenizer against its targets",
        "",
        f"Made by `python benchmarks/tokenizer.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, on {platform.machine()}, {os.cpu_count()} cores, torch "
        f"{facts['versions']['torch']}, one thread.",
        "",
        "On held-out operators, at the best epoch by the composite; the recipe and what differs "
        "from it in the last column. In brackets: the worst category or codebook. **Bold** misses "
        "the target. Category orthogonality alone is that of the partition on the features that it "
        "was found on, before any training; in brackets its worst category on the held-out.",
        "",
        *HEAD,
    ]
    lines += [row(run, work / f"m_{run.name}") for run in RUNS]
    return "\n".join(lines) + "\n\n" + WHY


def row(run: Run, place: Path) -> str:
    found = json.loads((place / "metrics.json").read_text())
    artifact = json.loads((place / "best_model" / "artifact.json").read_text())
    metrics, quality = found["metrics"], found["quality"]
    worst = {
        "reconstruction_quality": min(quality["category_reconstruction"]),
        "utilization": min(quality["utilization"]),
        "category_orthogonality": max(quality["category_orthogonality"]),
        "topography": min(quality["codebook_topography"]),
    }
    cells = []
    for name, (sign, bound) in _T:
        value = metrics[f"quality/{name}"]
        met = value > bound if sign == ">" else value < bound
        text = f"{value:.3f}" if met else f"**{value:.3f}**"
        cells.append(f"{text} ({worst[name]:.2f})" if name in worst else text)
    samples = artifact["config"]["standardizer"]["samples"]
    categories = len(quality["category_reconstruction"])
    codes = sum(book["num_tokens"] for book in found["codebooks"])
    error = f"{metrics['train/reconstruction']:.3f} / {metrics['val/reconstruction']:.3f}"
    settings = ", ".join([run.recipe, *(f"`{setting}`" for setting in run.settings)])
    told = [run.data.removesuffix(".h5"), samples, categories, codes, *cells, error, settings]
    return "| " + " | ".join(map(str, told)) + " |"


_T = tuple(TARGETS.items())
HEAD = (
    "| data | samples | categories | codes | "
    + " | ".join(f"{name.replace('_', ' ')} {sign} {bound:g}" for name, (sign, bound) in _T)
    + " | train/val error | settings |",
    "|" + "---|" * (6 + len(_T)),
)
WHY = """\
What the misses were, and what mended them:

- **Too few samples.** 64 operators leave 51 trajectories to learn from: codebooks of at most 8
  codes, and 13 held-out trajectories that cannot use more. Sixteen windows of each trajectory
  raise every figure; operators stay on one side of the split, so nothing leaks.
- **A catch-all category.** The silhouette prefers few clusters, and features that correlate with
  nothing (means of a periodic flow, directions of advection) end in the largest. Its three tokens
  cannot tell a dozen independent numbers: on the Kolmogorov flow it reaches 0.31 where the other
  nine categories reach 0.72 to 0.93. `num_categories_auto: 30` gives such features codebooks of
  their own.
- **Operators unlike those learnt from.** With 30 categories on `prototype_mid` one reaches
  0.04: the variances of invariants' drift, whose tails are heavy. On the held-out operators they
  vary 4.3 times as much as on those learnt from; three of 102 operators carry 59 % of the
  category's error, and without them it is at 0.59, on the training operators at 0.99. Two more of
  that family (0.24, 0.56) are alike. More operators mend it, no setting does.
- What is left is the gap between the errors on training and on held-out operators: as many
  operators as these files have do not determine 80 features. With 2,048 operators to learn from
  the gap is closed, and both recipes meet all targets. [tokenizer_data.md](tokenizer_data.md) has a
  quarter, half and all of the operators side by side: the quality of held-out ones climbs with
  them on both datasets, and has not levelled off on the Kolmogorov flow's 64.
- The schedule of resets is no cause: utilization is above its target wherever the held-out set is
  large enough to use the codes.
"""


if __name__ == "__main__":
    typer.run(main)
