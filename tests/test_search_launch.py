"""The two commands of a search, as a user gives them, with the NOA really trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from spinlock import artifact
from spinlock.search.events import State
from spinlock.search.ledger import read_ledger

ROOT = Path(__file__).parents[1]
SPACE = """\
name: tiny
trials: 3
resources: {execution: in_process}
searcher: {kind: random}
guards: [{kind: commit_climb, factor: 1.5}]
training:
  epochs: 2
  rollout: {timesteps: 8}
  model: {base_channels: 4, encoder_levels: 1, modes: 4, afno_blocks: 1}
space:
  loss.lambda_commit: {log_uniform: [0.1, 1]}
  batch_size: {choice: [4, 8]}
start:
  - {loss.lambda_commit: 0.5, batch_size: 4}
"""


def launch(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def test_a_dry_run_shows_three_configurations_and_makes_nothing(
    space: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x"
    shown = launch(
        "tune_noa.py",
        *("--space", space, "--dry-run", "--experiment", place, "--artifacts", tmp_path / "a"),
        *("--trials", 9, "--set", "training.epochs=7"),
    )
    assert shown.returncode == 0, shown.stderr
    assert all(f"sample {n}: loss.lambda_commit" in shown.stdout for n in (1, 2, 3))
    assert "  epochs: 7\n" in shown.stdout
    assert "7 epochs a trial" in shown.stdout
    assert "9 trials: 1 start points, then random. Nothing was trained." in shown.stdout
    assert not place.exists()
    assert not (tmp_path / "a").exists()


def test_a_mistake_is_one_message_and_exit_code_2(space: Path, tmp_path: Path) -> None:
    space.write_text(SPACE.replace("encoder_levels", "encoder_level"))
    answer = launch("tune_noa.py", "--space", space, "--artifacts", tmp_path / "a")
    assert answer.returncode == 2
    assert "tiny.yaml:9: training.model.encoder_level: there is no such key" in answer.stderr
    assert "Did you mean 'encoder_levels'?" in answer.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_noa_is_searched_resumed_exported_and_judged_again(
    space: Path, tmp_path: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    place = tmp_path / "x"
    files = ("--space", space, "--data", tiny_data, "--vqvae", tiny_tokenizer)
    done = launch("tune_noa.py", *files, "--experiment", place)
    assert done.returncode == 0, done.stderr
    ledger = read_ledger(place)
    assert ledger.trials[0].state() == State.COMPLETED
    assert "best  trial" in done.stdout
    assert f"python launch/export_best.py {place}" in done.stdout

    again = launch("tune_noa.py", *files, "--experiment", place)
    assert again.returncode == 2
    assert "Add --resume to go on with it" in again.stderr
    more = launch("tune_noa.py", *files, "--experiment", place, "--resume", "--trials", 4)
    assert more.returncode == 0, more.stderr
    assert len(read_ledger(place).trials) == 4

    out = tmp_path / "out"
    exported = launch("export_best.py", place, "--out", out)
    assert exported.returncode == 0, exported.stderr
    assert "Reproduced to" in exported.stdout
    kept = artifact.load(out, "noa")
    assert kept.provenance["study"]["name"] == "tiny"
    assert kept.provenance["data"].startswith("sha256:")
    assert kept.metrics["val/traj"] > 0
