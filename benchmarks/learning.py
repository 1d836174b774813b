"""Does the NOA learn, and what do its losses do?

    python benchmarks/learning.py --work DIRECTORY [--data FILE.h5] [--jobs N]

On generated operators (64x64, 64 steps, window 32), or on a file of one's own, and for each of
three seeds, a tokenizer is trained, on the operators that the NOAs of that seed train on, and then
each of CASES, by the trainer of `spinlock train-noa`. Finished
runs in --work are not repeated, so it can be stopped. Writes benchmarks/results/learning.md (with
--data: learning_NAME.md) and a picture of the curves beside it. Each run takes a process of one
thread, --jobs of them at a time, on the GPU when there is one.
"""

import json
import math
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import torch
import typer

from spinlock.artifact import provenance
from spinlock.data import open_dataset
from spinlock.files import atomic_file
from spinlock.noa import NeuralOperatorAgent
from spinlock.training.config import NOATraining, training_config
from spinlock.training.noa_task import NOATask
from spinlock.training.prepare import train_and_export
from spinlock.training.trainer import Trainer

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
GENERATED = """\
operators: 256
seed: 0
grid: 64
frames: 65
domain:
  kind: cno
  dt: 0.1
  num_layers: {kind: integer, low: 2, high: 3}
  base_channels: {kind: integer, low: 8, high: 16}
  noise_scale: {kind: log, low: 1e-5, high: 1e-2}
"""
MODEL = {
    "base_channels": 4,
    "encoder_levels": 3,
    "modes": 8,
    "afno_blocks": 1,
    "blocks_per_level": 1,
    "head_gain": 0.1,  # at 1 the first epochs of 64 steps unlearn the untrained drift
}
THREE = {"lambda_commit": 0.5, "lambda_latent": 0.1, "latent_sample_steps": 3}
STATES, ALIGNED = "states alone", "three losses (commit .5, latent .1, 3 steps)"
LATENT, UNCOMMITTED = "latent .5, 8 steps", "commit 0"
CASES: dict[str, dict[str, Any]] = {
    STATES: {"lambda_commit": 0.0, "lambda_latent": 0.0},
    ALIGNED: THREE,
    LATENT: {**THREE, "lambda_latent": 0.5, "latent_sample_steps": 8},
    UNCOMMITTED: {**THREE, "lambda_commit": 0.0},
}
EFFECTS = ((ALIGNED, STATES), (LATENT, ALIGNED), (ALIGNED, UNCOMMITTED))
SEEDS, EPOCHS, BATCH, WINDOW = (0, 1, 2), 2, 2, 32
HORIZONS = (1, 8, 16, 32, 63)
TERMS = ("traj", "commit", "latent")


def main(
    work: Annotated[Path, typer.Option(help="Where data, tokenizer and runs are kept.")],
    data: Annotated[Path | None, typer.Option(help="A data file of one's own.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = EPOCHS,
    batch: Annotated[int, typer.Option(min=1, help="Samples of an update.")] = BATCH,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    cases: Annotated[int, typer.Option(min=1, help="The first so many of CASES.")] = len(CASES),
) -> None:
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    dataset = _generated(work) if data is None else data
    steps = min(64, open_dataset(dataset).info.frames - 1)
    tokenizers = [_tokenizer(work, dataset, steps + 1, seed) for seed in SEEDS]
    chosen = list(CASES)[:cases]
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in chosen}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        runs = [
            (seed, case, pool.submit(_run, config, work / f"run-{number}-{seed}"))
            for number, case in enumerate(chosen)
            for seed, tokenizer in zip(_seeds(case), tokenizers, strict=False)
            for config in [_config(dataset, tokenizer, steps, epochs, batch, seed, CASES[case])]
        ]
        for seed, case, run in runs:
            found[case].append(run.result())
            print(f"seed {seed}, {case}: {found[case][-1]['val'][-1]}", flush=True)
    name = "learning" if data is None else f"learning_{data.stem}"
    _draw(found, RESULTS / f"{name}.png")
    with atomic_file(RESULTS / f"{name}.md") as path:
        path.write_text(_page(found, dataset, steps, epochs, batch, name), encoding="utf-8")
    print((RESULTS / f"{name}.md").read_text())


def _seeds(case: str) -> tuple[int, ...]:
    """All for what is compared with persistence, two for a setting that is changed."""
    return SEEDS if case in (STATES, ALIGNED) else SEEDS[:2]


def _generated(work: Path) -> Path:
    path, recipe = work / "operators.h5", work / "operators.yaml"
    if not path.exists():
        recipe.write_text(GENERATED)
        _spinlock("generate", path, "--config", recipe)
    return path


def _tokenizer(work: Path, dataset: Path, frames: int, seed: int) -> Path:
    place = work / f"tokenizer-{seed}"
    if not (place / "metrics.json").exists():
        given = ("--input", dataset, "--output", place, "--set", f"frames={frames}")
        _spinlock("train-vqvae", "--config", "quick", *given, "--set", f"seed={seed}")
    return place / "best_model"


def _spinlock(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "spinlock.cli", *map(str, arguments)], check=True)


def _config(
    dataset: Path,
    tokenizer: Path,
    steps: int,
    epochs: int,
    batch: int,
    seed: int,
    loss: dict[str, Any],
) -> NOATraining:
    config = training_config(
        {
            "task": "noa",
            "data": {"path": str(dataset)},
            "tokenizer": str(tokenizer),
            "model": MODEL,
            "rollout": {"timesteps": steps, "bptt_window": min(WINDOW, steps)},
            "optimizer": {"lr": 2e-3, "warmup_steps": 20},
            "loss": loss,
            "batch_size": batch,
            "epochs": epochs,
            "seed": seed,
        },
        where="benchmarks/learning.py",
    )
    assert isinstance(config, NOATraining)
    return config


def _run(config: NOATraining, place: Path) -> dict[str, Any]:
    """Curves of val/*, the rollout's error by horizon, and what standing still would score."""
    result = place / "result.json"
    if not result.exists():
        torch.set_num_threads(1)
        trainer = Trainer(config)
        assert isinstance(trainer.task, NOATask)
        untrained = trainer.task.validate(trainer.world, config.batch_size)
        curve: list[dict[str, float]] = [untrained]
        train_and_export(
            trainer, place / "best", progress=lambda report, _: curve.append(report.metrics)
        )
        found: dict[str, Any] = {"val": [{t: epoch[f"val/{t}"] for t in TERMS} for epoch in curve]}
        found["train"] = [{t: epoch[f"train/{t}"] for t in TERMS} for epoch in curve[1:]]
        found |= _horizons(trainer, trainer.task, place / "best")
        found["seconds"] = sum(epoch.get("seconds", 0.0) for epoch in curve)
        with atomic_file(result) as path:
            path.write_text(json.dumps(found))
    loaded: dict[str, Any] = json.loads(result.read_text())
    return loaded


def _horizons(trainer: Trainer, task: NOATask, artifact: Path) -> dict[str, Any]:
    """Relative L2 error of held-out rollouts, mean over operators, and persistence's."""
    agent = NeuralOperatorAgent.load(artifact)
    agent.model.to(trainer.device)
    dataset = open_dataset(task.config.data.path)
    steps, items = task.config.rollout.timesteps, task.split.validation
    true, size = dataset.trajectories(items, slice(0, steps + 1)), task.config.batch_size
    rolled = torch.cat(
        [
            agent.rollout(
                dataset.initial(part).to(trainer.device),
                dataset.parameters(part).to(trainer.device),
                steps,
            ).cpu()
            for part in (items[first : first + size] for first in range(0, len(items), size))
        ]
    )
    still = true[:, :1].expand_as(true)
    window = slice(steps + 1 - task.config.rollout.window, None)

    def relative(guess: torch.Tensor, step: int) -> float:
        error = (guess[:, step] - true[:, step]).flatten(1).norm(dim=1)
        return float((error / true[:, step].flatten(1).norm(dim=1).clamp_min(1e-12)).mean())

    horizons = [min(step, steps) for step in HORIZONS]
    return {
        "persistence": float((still - true)[:, window].square().mean()),
        "relative": [relative(rolled, step) for step in horizons],
        "relative persistence": [relative(still, step) for step in horizons],
    }


def _page(
    found: dict[str, list[dict[str, Any]]],
    dataset: Path,
    steps: int,
    epochs: int,
    batch: int,
    name: str,
) -> str:
    facts, info = provenance(), open_dataset(dataset).info
    grid = f"{info.height}x{info.width}"
    still = [run["persistence"] for run in next(iter(found.values()))]
    relative = [run["relative persistence"] for run in next(iter(found.values()))]
    lines = [
        f"# Does the NOA learn: {info.path.name}",
        "",
        f"Made by `python benchmarks/learning.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, on {_device()}, one thread a run.",
        f"{info.operators} operators, {grid}, {steps} steps, window {min(WINDOW, steps)}; a "
        f"U-AFNO of base {MODEL['base_channels']}, head gain {MODEL['head_gain']}, {epochs} epochs "
        f"of batches of {batch}, "
        f"{len(SEEDS)} seeds (weights, split, order, tokenizer), two for a setting changed. Mean "
        "and standard deviation over them, on held-out operators, at each run's best epoch by "
        "val/traj.",
        "",
        "| | val/traj untrained | val/traj | val/commit | val/latent | seconds |",
        "|---|---|---|---|---|---|",
        f"| persistence, u_t = u_0 | | {_told(still)} | | | |",
    ]
    for case, runs in found.items():
        best = [_best(run) for run in runs]
        cells = [_told([run["val"][0]["traj"] for run in runs])]
        cells += [_told([each[term] for each in best]) for term in TERMS]
        lines.append(f"| {case} | {' | '.join(cells)} | {_told([r['seconds'] for r in runs])} |")
    lines += [
        "",
        "Relative L2 error of the best epoch's rollouts by horizon:",
        "",
        "| step | " + " | ".join(str(min(step, steps)) for step in HORIZONS) + " |",
        "|---" * (1 + len(HORIZONS)) + "|",
        _row("persistence", relative),
        *(_row(case, [run["relative"] for run in runs]) for case, runs in found.items()),
        "",
        "The effect of a setting: one over the other within a seed, below 1 where it lowers the "
        "loss. Geometric mean, and all seeds.",
        "",
        "| | " + " | ".join(f"val/{term}" for term in TERMS) + " |",
        "|---" * (1 + len(TERMS)) + "|",
        *(_effect(found, *pair) for pair in EFFECTS if {*pair} <= found.keys()),
        "",
        f"![curves]({name}.png)",
        "",
    ]
    return "\n".join(lines)


def _best(run: dict[str, Any]) -> dict[str, float]:
    """The losses of the epoch that is kept."""
    found: dict[str, float] = min(run["val"][1:], key=lambda epoch: epoch["traj"])
    return found


def _effect(found: dict[str, list[dict[str, Any]]], of: str, on: str) -> str:
    cells = []
    for term in TERMS:
        pairs = zip(found[of], found[on], strict=False)  # seed by seed, as far as both go
        ratios = [_best(one)[term] / _best(other)[term] for one, other in pairs]
        every = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        cells.append(f"{statistics.geometric_mean(ratios):.3f} ({every})")
    return f"| {of} over {on} | {' | '.join(cells)} |"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"


def _row(case: str, runs: list[list[float]]) -> str:
    return f"| {case} | {' | '.join(_told(list(each)) for each in zip(*runs, strict=True))} |"


def _told(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4g} ± {spread:.1g}"


def _draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(TERMS), figsize=(13, 4), layout="constrained")
    for ax, term in zip(axes, TERMS, strict=True):
        for index, (case, runs) in enumerate(found.items()):
            for run in runs:
                label = case if run is runs[0] else None
                for part, style in (("val", "-"), ("train", ":")):
                    curve = [epoch[term] for epoch in run[part]]
                    first = len(run["val"]) - len(curve)  # nothing has trained at epoch 0
                    epochs = range(first, len(run["val"]))
                    ax.plot(epochs, curve, f"C{index}{style}", alpha=0.7, label=label)
                    label = None
        if term == "traj":
            for seed, run in enumerate(next(iter(found.values()))):
                label = None if seed else "persistence"  # each seed holds out other operators
                ax.axhline(run["persistence"], color="grey", linestyle="--", label=label)
        ax.set(title=f"{term} (dotted: train)", xlabel="epoch", yscale="log")
    axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    typer.run(main)
