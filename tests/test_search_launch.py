"""The two commands of a search, as a user gives them, with the NOA really trained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spinlock import artifact
from spinlock.search.events import State
from spinlock.search.ledger import read_ledger
from spinlock.search.ranking import leaders

ROOT = Path(__file__).parents[1]
SPACE = """\
name: tiny
trials: 3
resources: {execution: in_process, concurrent: 1}
searcher: {kind: random}
guards: [{kind: commit_climb}]
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


TOKENIZERS = """\
name: tokenizers
trials: 3
seed: 1
resources: {concurrent: 1}
searcher: {kind: random}
objective: {metric: quality/composite}
scheduler: {kind: asha, grace_epochs: 4, spare: 1}
guards: [{kind: codebook_collapse, floor: 0.01}, {kind: commit_drift}]
training:
  epochs: 7
  val_every_n_epochs: 3
  model: {hidden_dim: 16, embedding_dim: 16}
space:
  model.commitment_cost: {log_uniform: [0.1, 1]}
  batch_size: {choice: [2, 4]}
start:
  - {model.commitment_cost: 0.5, batch_size: 4}
"""


def launch(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
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


def test_a_dry_run_of_a_tokenizers_search_shows_the_rungs_that_its_reports_allow(
    tmp_path: Path,
) -> None:
    (tmp_path / "tokenizers.yaml").write_text(TOKENIZERS)
    shown = launch(
        "tune_vqvae.py",
        *("--space", tmp_path / "tokenizers.yaml", "--dry-run", "--artifacts", tmp_path / "a"),
    )
    assert shown.returncode == 0, shown.stderr
    assert "sample 3: model.commitment_cost" in shown.stdout
    assert "7 epochs a trial; compared with others after 6." in shown.stdout
    assert "3 trials: 1 start points, then random. Nothing was trained." in shown.stdout
    assert not (tmp_path / "a").exists()
    several = "objectives=[{metric: quality/utilization, mode: max}, {metric: val/loss}]"
    answer = launch(
        "tune_vqvae.py",
        *("--space", tmp_path / "tokenizers.yaml", "--dry-run"),
        *("--set", "objective=null", "--set", several),
    )
    assert answer.returncode == 2
    assert "tokenizers.yaml:7: scheduler: asha compares trials by one number" in answer.stderr


@pytest.mark.slow
def test_the_best_of_a_tokenizers_search_goes_straight_into_a_search_of_noas(
    space: Path, tmp_path: Path, tiny_data: Path
) -> None:
    tokenizers, place, out = tmp_path / "tokenizers.yaml", tmp_path / "x", tmp_path / "best"
    tokenizers.write_text(TOKENIZERS)
    kept = ("--artifacts", tmp_path / "a", "--data", tiny_data)
    found = launch("tune_vqvae.py", "--space", tokenizers, "--experiment", place, *kept)
    assert found.returncode == 0, found.stderr
    assert len(list((tmp_path / "a" / "features").iterdir())) == 1, "one file for all trials"
    ledger = read_ledger(place)
    assert ledger.trials[0].state() == State.COMPLETED
    assert list(ledger.trials[0].history) == [3, 6, 7]

    exported = launch("export_best.py", place, "--out", out)
    assert exported.returncode == 0, exported.stderr
    assert "quality/composite" in exported.stdout
    assert "Reproduced to" in exported.stdout
    (best,) = leaders(ledger)
    at = best.best(ledger.study.goals)
    assert at is not None
    assert artifact.load(out, "vqvae").metrics["quality/composite"] == at[1][0]

    words = ("--space", space, "--vqvae", out, "--dry-run", *kept)
    ready = launch("tune_noa.py", *words)
    assert ready.returncode == 0, ready.stderr
    assert f"  tokenizer: {out}\n" in ready.stdout


@pytest.mark.slow
def test_a_front_of_tokenizers_is_searched_and_one_of_its_points_exported(
    tmp_path: Path, tiny_data: Path
) -> None:
    tokenizers, place = tmp_path / "tokenizers.yaml", tmp_path / "x"
    tokenizers.write_text(
        TOKENIZERS.replace(
            "objective: {metric: quality/composite}",
            "objectives: [{metric: quality/reconstruction_quality, mode: max}, "
            "{metric: quality/utilization, mode: max}]",
        )
        .replace("{concurrent: 1}", "{execution: in_process, concurrent: 1}")
        .replace("grace_epochs: 4, spare: 1}", "metric: quality/composite, mode: min}")
    )
    kept = ("--artifacts", tmp_path / "a", "--data", tiny_data)
    found = launch("tune_vqvae.py", "--space", tokenizers, "--experiment", place, *kept)
    assert found.returncode == 0, found.stderr
    ledger = read_ledger(place)
    front = leaders(ledger)
    assert found.stdout.count("front trial ") == len(front)
    chosen = front[-1].number
    exported = launch("export_best.py", place, "--trial", chosen, "--out", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert artifact.load(tmp_path / "out", "vqvae").provenance["trial"] == chosen


@pytest.mark.slow
def test_a_noa_is_searched_resumed_exported_and_judged_again(
    space: Path, tmp_path: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    place = tmp_path / "x"
    files = ("--space", space, "--data", tiny_data, "--vqvae", tiny_tokenizer)
    done = launch("tune_noa.py", *files, "--experiment", place, "--resume")
    assert done.returncode == 0, done.stderr
    assert "x: no search stands here yet; it begins now." in done.stdout
    ledger = read_ledger(place)
    assert ledger.trials[0].state() == State.COMPLETED
    assert "best  trial" in done.stdout
    assert f"launch/export_best.py {place}" in done.stdout

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


def test_a_dry_run_tells_memory_and_time_where_all_files_are_there_and_why_not_where_they_are_not(
    space: Path, tmp_path: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    asked = ("tune_noa.py", "--space", space, "--dry-run", "--artifacts", tmp_path / "a")
    absent = launch(*asked)
    assert "nothing can be probed, since data.path and tokenizer are made when" in absent.stdout
    shown = launch(*asked, "--data", tiny_data, "--vqvae", tiny_tokenizer)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert any(re.match(r"Memory: \d+\.\d+ GB of cpu for a worker;", line) for line in lines)
    assert any(re.match(r"  \d\.\d+ GB with micro-batches of \d+ of \d+: ", line) for line in lines)
    assert any(
        re.match(r"Time: about \d+ s \(\d+ s to \d+ s\); by the probes", line) for line in lines
    )
