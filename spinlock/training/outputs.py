"""What a tokenizer's training leaves beside its checkpoint, for people and for other programs.

best_model/              the artifact of the best epoch (`Tokenizer.load`)
normalization_stats.npz  <category>_low, _high, _spread, _mean and _std, and feature_names
training_history.json    every epoch's metrics
categories.json          which feature is in which category, and why others are in none
metrics.json             the best epoch's quality, per category and codebook, with targets
config.yaml              the resolved recipe
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spinlock.config import Config, as_yaml
from spinlock.files import atomic_directory, atomic_file
from spinlock.training.state import EpochReport, RunState
from spinlock.training.vqvae_task import VQVAETask
from spinlock.vqvae import TARGETS, Categories, Tokenizer

BEST = "best_model"
CHECKPOINT = "checkpoint"


def run_of(path: Path) -> Path:
    """The output directory of a run, given it or its best model."""
    return path.parent if path.name == BEST else path


def copy_best(run: Path, out: Path) -> None:
    """Give a run that goes on in `out` the best model so far, which stays in `run` as it is."""
    best = run / BEST
    if best.is_dir() and run.resolve() != out.resolve():
        with atomic_directory(out / BEST) as beside:
            shutil.copytree(best, beside, dirs_exist_ok=True)


def write_recipe(out: Path, recipe: Config) -> None:
    """The resolved configuration: every key, the defaults too."""
    with atomic_file(out / "config.yaml") as path:
        path.write_text(as_yaml(recipe.model_dump(mode="json")) + "\n", encoding="utf-8")


def write_history(out: Path, state: RunState) -> None:
    """Every epoch so far; those without validation have training metrics alone."""
    epochs = [{"epoch": row["epoch"], "metrics": row["metrics"]} for row in state.history]
    _json(out / "training_history.json", {"best_epoch": state.best_epoch, "history": epochs})


def write_results(out: Path, task: VQVAETask, best: EpochReport) -> dict[str, Any]:
    """Normalization, categories and the quality of the exported model; the latter is returned.

    The quality is measured on the model as it was read back from disk.
    """
    tokenizer = Tokenizer.load(out / BEST)
    names, standardizer = tokenizer.standardizer.names, tokenizer.standardizer
    groups = labelled(tokenizer.categories)
    statistics = {
        f"{category}_{what}": getattr(standardizer, what)[list(members)].numpy()
        for category, members in groups.items()
        for what in ("low", "high", "spread", "mean", "std")
    }
    with atomic_file(out / "normalization_stats.npz") as path, path.open("wb") as stream:
        np.savez(stream, feature_names=np.array(names), **statistics)
    found = tokenizer.categories
    _json(
        out / "categories.json",
        {
            "categories": {name: [names[i] for i in members] for name, members in groups.items()},
            "silhouette": found.silhouette,
            "orthogonality": found.orthogonality,
            "orthogonality_target": found.orthogonality_target,
            "reassigned": [names[i] for i in found.reassigned],
            "dropped": {column.name: column.reason for column in standardizer.report},
        },
    )
    task.vqvae.load_state_dict(tokenizer.vqvae.state_dict())
    metrics = {
        "epoch": best.epoch,
        "metrics": best.metrics,
        "quality": asdict(task.quality()),
        "codebooks": [
            {"category": name, "level": level, **codebook.model_dump()}
            for name, levels in zip(groups, tokenizer.vqvae.layout.levels, strict=True)
            for level, codebook in enumerate(levels)
        ],
        "targets": against_targets(best.metrics),
    }
    _json(out / "metrics.json", metrics)
    return metrics


def against_targets(metrics: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Each documented target with what was reached and whether it is met."""
    return {
        name: {
            "reached": (reached := metrics[f"quality/{name}"]),
            "target": f"{sign} {bound:g}",
            "met": reached > bound if sign == ">" else reached < bound,
        }
        for name, (sign, bound) in TARGETS.items()
    }


def labelled(categories: Categories) -> dict[str, tuple[int, ...]]:
    """Each category's features by its name: the user's own, or category_0, category_1, ..."""
    names = categories.names or [f"category_{i}" for i in range(len(categories.groups))]
    return dict(zip(names, categories.groups, strict=True))


def _json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
