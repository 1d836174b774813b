"""A user's mistake is one message and exit code 2, and nothing is left half-done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spinlock import cli
from spinlock.artifact import load
from spinlock.training.trainer import Trainer

RECIPE = """\
operators: 6
grid: 16
frames: 9
domain:
  kind: cno
  num_layers: {kind: integer, low: 2, high: 2}
  base_channels: {kind: integer, low: 4, high: 8}
"""
TRAINING = """\
task: noa
data: {path: DATA}
model: {base_channels: 4, encoder_levels: 1, modes: 4, afno_blocks: 1, blocks_per_level: 1}
rollout: {timesteps: 8}
loss: {lambda_commit: 0, lambda_latent: 0}
epochs: 2
"""


def spinlock(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "spinlock.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def refused(*arguments: str | Path) -> str:
    done = spinlock(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr[done.stderr.index("Error: ") :]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def training(tmp_path: Path, tiny_data: Path) -> Path:
    path = tmp_path / "noa.yaml"
    path.write_text(TRAINING.replace("DATA", str(tiny_data)))
    return path


def test_generate_makes_a_file_that_check_finds_sound(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.h5"
    assert spinlock("generate", out, "--config", recipe).returncode == 0
    checked = spinlock("check", out)
    assert checked.returncode == 0
    assert "6 x 1" in checked.stdout
    assert "Every stored number is finite." in checked.stdout
    assert "exists" in refused("generate", out, "--config", recipe)


def test_a_command_refused_before_its_first_batch_shows_no_progress(
    recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "made.h5").write_text("mine")
    done = spinlock("generate", tmp_path / "made.h5", "--config", recipe)
    assert done.stderr.startswith("Error: ")


def test_a_misspelt_key_is_answered_with_file_line_and_word(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("grid:", "gird:"))
    said = refused("generate", tmp_path / "made.h5", "--config", recipe)
    assert f"{recipe}:2: gird: there is no such key. Did you mean 'grid'?" in said
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("damage", ["absent", "truncated", "text", "empty"])
def test_a_bad_data_file_is_answered_by_name(damage: str, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    if damage == "truncated":
        path.write_bytes(tiny_data.read_bytes()[:-5000])
    elif damage != "absent":
        path.write_text("no HDF5 here" if damage == "text" else "")
    assert str(path) in refused("check", path)


def test_a_run_goes_on_only_when_asked_to_and_keeps_its_best_epoch(
    training: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert spinlock("train", training, "--out", out, "--set", "epochs=1").returncode == 0
    assert "a run is here already" in refused("train", training, "--out", out)
    resumed = spinlock("train", training, "--out", out, "--resume")
    assert resumed.returncode == 0
    assert "Epoch 1/2" not in resumed.stderr
    assert "Epoch 2/2" in resumed.stderr
    assert load(out / "best", "noa").metrics["epoch"] in (1, 2)


def test_a_run_stopped_before_its_first_checkpoint_is_begun_anew(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(trainer: Trainer, path: Path) -> None:
        path.parent.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", interrupted)
    words = ["train", str(training), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.commands(), words)
    assert done.exit_code == 130
    assert done.stderr.endswith("Interrupted. Nothing was saved yet.\n")
    monkeypatch.undo()
    assert CliRunner().invoke(cli.commands(), words).exit_code == 0


def test_several_bad_settings_are_told_in_one_message(training: Path, tmp_path: Path) -> None:
    flags = [
        "batch_size=0",
        "epochs=x",
        "optimizer.lr=-1",
        "optimiser.lr=1",
        "model.modes=0",
        "loss.lambda_commit=-1",
    ]
    arguments = [part for flag in flags for part in ("--set", flag)]
    said = refused("train", training, "--out", tmp_path / "out", *arguments)
    for flag in flags:
        assert f"--set {flag}: " in said
    assert "--set optimiser.lr=1: optimiser: there is no such key. Did you mean" in said
    assert not (tmp_path / "out").exists()


def test_each_command_is_found_without_importing_the_others() -> None:
    group = typer.main.get_group(cli.commands())
    found = {name: command.callback.__module__ for name, command in group.commands.items()}
    assert found == {
        name: f"spinlock.cli.{module}" for module, names in cli.COMMANDS.items() for name in names
    }
    alone = "import sys; from spinlock import cli; cli.commands('list'); print(*sys.modules)"
    imported = subprocess.check_output([sys.executable, "-c", alone], text=True).split()
    assert "spinlock.cli.service" in imported
    assert "torch" not in imported
