"""The main job on files that nobody in this project wrote, when they are beside the checkout."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from spinlock.data import open_dataset
from spinlock.features import FeatureConfig, extract
from spinlock.noa import NeuralOperatorAgent

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "trials=1",
    "resources.execution=in_process",
    "resources.concurrent=1",
    "training.epochs=1",
    "training.data.operators=12",
    "training.rollout.timesteps=8",
)


def launch(script: str, *arguments: str) -> str:
    command = [sys.executable, f"launch/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_file_of_the_well_is_searched_as_it_is_and_its_best_model_exported(
    real_data: Path, tmp_path: Path
) -> None:
    data = real_data / "ns_kolmogorov_exponax.h5"
    experiment, out = tmp_path / "experiment", tmp_path / "best"
    overrides = [flag for override in SMALL for flag in ("--set", override)]
    said = launch(
        "tune_noa.py",
        *("--space", "search_spaces/latent.yaml", "--data", str(data)),
        *("--experiment", str(experiment), "--artifacts", str(tmp_path / "artifacts")),
        *overrides,
    )
    assert "1 of 1 begun" in said
    trials = pq.read_table(experiment / "trials.parquet").to_pylist()
    assert [trial["state"] for trial in trials] == ["COMPLETED"]
    launch("export_best.py", str(experiment), "--out", str(out))

    agent = NeuralOperatorAgent.load(out)
    dataset = open_dataset(data)
    assert agent.channels == dataset.info.channel_names
    frames = agent.rollout(dataset.initial([0, 1]), dataset.parameters([0, 1]), timesteps=3)
    assert frames.shape == (2, 4, 1, 64, 64)
    assert torch.isfinite(frames).all()


@pytest.mark.parametrize("name", ["rd_grayscott_exponax.h5", "wave_medium_deepwave.h5"])
def test_features_of_real_trajectories_are_finite_with_finite_gradients(
    real_data: Path, name: str
) -> None:
    """Trajectories 14 and 15 of the first file die out to a constant field."""
    trajectories = open_dataset(real_data / name).trajectories([0, 14, 15], slice(40, 64))
    trajectories.requires_grad_()
    features = extract(trajectories, FeatureConfig())
    features.sum().backward()
    assert torch.isfinite(features).all()
    assert trajectories.grad is not None
    assert torch.isfinite(trajectories.grad).all()
