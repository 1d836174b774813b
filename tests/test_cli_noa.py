"""`spinlock train-noa`: what it prints and writes, how it goes on, and how it answers mistakes."""

import importlib.util
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from noa_runs import SMALL, refused, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from spinlock import artifact
from spinlock.cli import commands
from spinlock.config import load
from spinlock.document import plain
from spinlock.noa import NeuralOperatorAgent
from spinlock.training import checkpoint, retention
from spinlock.training.config import NOATraining
from spinlock.training.noa_recipe import KEYS, default
from spinlock.training.trainer import Trainer

MEASURED = {"seconds", "peak_memory_bytes"}
NUMBER = r"\d[\d.e+-]*"


def final(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint that is not a measurement of the machine."""
    saved = checkpoint.read(path)
    del saved["run"]["seconds"]
    for row in saved["run"]["history"]:
        row["metrics"] = {k: v for k, v in row["metrics"].items() if k not in MEASURED}
    return saved


def same(one: Any, other: Any) -> bool:
    """Equality to the bit, through nested containers of tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def curve(run: Path, name: str) -> dict[int, float]:
    """A scalar by its step, as TensorBoard shows it; every step once."""
    read = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0}).Reload()
    points = [(point.step, point.value) for point in read.Scalars(name)]
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    return dict(points)


@pytest.fixture(scope="module")
def aligned(tiny_data: Path, tiny_tokenizer: Path) -> tuple[str | Path, ...]:
    """The three losses on `tiny_data`."""
    return ("--dataset", tiny_data, "--vqvae-path", tiny_tokenizer, "--enable-latent-loss", *SMALL)


@pytest.fixture(scope="module")
def straight(
    aligned: tuple[str | Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Two epochs without interruption: the run's directory, and what it said."""
    out = tmp_path_factory.mktemp("straight") / "noa"
    torch.set_num_threads(1)
    return out, train(*aligned, "--checkpoint-dir", out, "--save-every", "2")


def test_an_epoch_is_told_in_the_guides_form(straight):
    _, told = straight
    losses = " ".join(f"{name}={NUMBER}" for name in ("total", "traj", "commit", "latent"))
    seen = " ".join(f"{name}={NUMBER}" for name in ("traj", "commit", "latent"))
    for epoch in (1, 2):
        form = rf"^Epoch {epoch}/2\n  Train: {losses} \[{NUMBER}s\]\n  Val:   {seen}"
        assert re.search(form, told, re.MULTILINE), told
    assert "9 trajectories to train on, 3 to validate; 3 batches an epoch." in told
    assert "L = 1 L_traj + 0.5 L_commit + 0.1 L_latent" in told
    assert re.search(rf"Epoch 2/2 loss={NUMBER} lr={NUMBER} {NUMBER}s/b", told)


def test_a_run_leaves_its_best_model_and_the_newest_checkpoints(straight):
    out, _ = straight
    documented = {"best_model", "events", "training_history.json", "config.yaml"}
    kept = {"step_4.pt", "step_6.pt", "epoch_2.pt"}
    assert {path.name for path in out.iterdir()} == documented | kept
    history = json.loads((out / "training_history.json").read_text())["history"]
    best = min(history, key=lambda row: row["metrics"]["val/traj"])
    agent = NeuralOperatorAgent.load(out / "best_model")
    assert agent.metrics["epoch"] == best["epoch"]
    written = load(NOATraining, out / "config.yaml").model_dump(mode="json")
    assert written == checkpoint.read(out / "epoch_2.pt")["config"]


def test_the_curves_are_those_of_the_history(straight):
    out, _ = straight
    history = json.loads((out / "training_history.json").read_text())["history"]
    for name in ("train/total", "val/traj", "val/latent", "gradient_norm"):
        expected = {3 * row["epoch"]: row["metrics"][name] for row in history}
        assert curve(out, name) == pytest.approx(expected, rel=1e-6)
    totals = curve(out, "batch/total")
    assert [*totals] == [*range(6)]
    sizes = [4, 4, 1]  # an epoch's figure is the mean over samples
    mean = sum(size * totals[step] for step, size in enumerate(sizes)) / 9
    assert curve(out, "train/total")[3] == pytest.approx(mean, rel=1e-5)
    assert curve(out, "batch/lr")[0] == pytest.approx(3e-5)


@pytest.mark.parametrize("name", ["step_4.pt", "step_6.pt", "epoch_2.pt"])
def test_a_run_that_goes_on_equals_one_that_was_never_interrupted(name, straight, tmp_path):
    """From the middle of an epoch, between its last update and validation, and from its end."""
    out, _ = straight
    again = tmp_path / "again"
    shutil.copytree(out, again)
    told = train("--resume", again / name, "--save-every", "2")
    assert same(final(again / "epoch_2.pt"), final(out / "epoch_2.pt"))
    ours, theirs = (artifact.load(path / "best_model", "noa") for path in (again, out))
    assert same(ours.weights, theirs.weights)
    for scalar in ("batch/traj", "batch/gradient_norm", "val/traj"):
        assert curve(again, scalar) == curve(out, scalar)
    assert f"Resuming from checkpoint: {again / name}\n  ✓ Loaded model weights" in told
    assert "✓ Loaded latent projector weights" in told
    if name == "step_4.pt":
        assert "✓ Resuming from epoch 2, step 4\n    (Will skip first 1 batches of epoch 2)" in told
        assert "✓ Best val loss so far: " in told


def test_a_run_is_taken_over_into_another_directory_and_left_as_it_is(straight, tmp_path):
    out, _ = straight
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    train("--resume", out / "step_4.pt", "--checkpoint-dir", tmp_path / "other")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert same(final(tmp_path / "other" / "epoch_2.pt"), final(out / "epoch_2.pt"))
    assert (tmp_path / "other" / "best_model" / "artifact.json").is_file()


def test_more_epochs_go_on_from_a_finished_run(aligned, tmp_path):
    constant = (*aligned, "--lr-schedule", "constant")
    train(*constant, "--checkpoint-dir", tmp_path / "straight")
    train(*constant, "--checkpoint-dir", tmp_path / "longer", "--epochs", "1")
    train("--resume", tmp_path / "longer", "--epochs", "2")
    two = (final(tmp_path / run / "epoch_2.pt") for run in ("straight", "longer"))
    assert same(*two)


def test_the_state_only_baseline_has_one_loss(tiny_data, tmp_path):
    told = train("--dataset", tiny_data, *SMALL, "--epochs", "1", "--checkpoint-dir", tmp_path)
    assert re.search(rf"  Train: total={NUMBER} traj={NUMBER} \[", told)
    assert "L = 1 L_traj." in told


def test_a_skipped_update_is_told_when_it_happens(tiny_data, tmp_path, capsys):
    said = refused(
        capsys, "--dataset", tiny_data, *SMALL, "--lr", "1e30", "--checkpoint-dir", tmp_path
    )
    assert "Warning: NaN/Inf gradients at batch 2, skipping update (" in said
    assert "nothing to keep" in said


def test_a_warm_up_longer_than_the_run_is_told(tiny_data, tmp_path):
    told = train(
        *("--dataset", tiny_data, *SMALL, "--epochs", "1", "--warmup-steps", "500"),
        *("--checkpoint-dir", tmp_path),
    )
    assert "⚠ Warm-up of 500 updates, and the run has 3: the rate never reaches 0.0003" in told


def test_mistakes_are_answered_with_one_message(straight, tiny_data, aligned, tmp_path, capsys):
    out, _ = straight
    assert "--dataset FILE is missing" in refused(capsys, "--epochs", "1")
    assert f"--resume {out}" in refused(capsys, *aligned, "--checkpoint-dir", out)
    other = refused(capsys, "--resume", out, "--base-channels", "8", "--lr", "0.1")
    assert "model.base_channels: 4 there, 8 here\n  optimizer.lr: 0.0003 there, 0.1 here" in other
    assert "--init-from" in other
    assert "--init-from" in refused(capsys, "--resume", out / "best_model")
    assert "Give one" in refused(capsys, "--resume", out, "--init-from", out / "best_model")
    nowhere = ("--dataset", tiny_data, *SMALL, "--checkpoint-dir", tmp_path / "run")
    assert "asks for 99" in refused(capsys, *nowhere, "--n-samples", "99")
    assert "asks for 3 and the file" in refused(capsys, *nowhere, "--n-realizations", "3")
    assert "needs 257 frames" in refused(capsys, *nowhere, "--timesteps", "256")
    assert "--vqvae-path" in refused(capsys, *nowhere, "--lambda-commit", "0.5")
    assert not (tmp_path / "run").exists()


def test_a_directory_of_other_things_is_refused_before_any_work_and_stays(
    tiny_data, tmp_path, capsys
):
    (tmp_path / "config.yaml").write_text("mine")
    asked = ("--dataset", tiny_data, *SMALL, "--checkpoint-dir", tmp_path)
    assert "other things than a NOA's training, such as config.yaml" in refused(capsys, *asked)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_what_a_run_left_that_was_stopped_before_its_first_checkpoint_is_begun_anew(
    tiny_data, tmp_path
):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "events").mkdir()
    train("--dataset", tiny_data, *SMALL, "--epochs", "1", "--checkpoint-dir", tmp_path)


@pytest.fixture
def minding_interrupts() -> Iterator[None]:
    """Ctrl-C does what it does to a user's command, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("minding_interrupts")
@pytest.mark.parametrize(("kind", "file"), [("step", "step_1.pt"), ("epoch", "epoch_1.pt")])
def test_a_run_stopped_while_it_saves_is_gone_on_with_from_what_it_saved(
    kind, file, tiny_data, tmp_path, monkeypatch
):
    save = getattr(retention, f"save_{kind}")

    def interrupted(trainer: Trainer, directory: Path) -> Path:
        path = save(trainer, directory)
        signal.raise_signal(signal.SIGINT)
        return path

    monkeypatch.setattr(retention, f"save_{kind}", interrupted)
    saved_by = {"step": ("--save-every", "1"), "epoch": ()}[kind]
    words = ["train-noa", "--dataset", tiny_data, *SMALL, *saved_by, "--checkpoint-dir", tmp_path]
    done = CliRunner().invoke(commands(), list(map(str, words)))
    assert done.exit_code == 130
    how = f"Interrupted. Go on with: spinlock train-noa --resume {tmp_path / file}\n"
    assert done.stderr.endswith(how)
    monkeypatch.undo()
    train("--resume", tmp_path / file)


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is not None, reason="asks for what is not installed"
)
def test_mlflow_that_is_not_installed_is_told_before_anything_starts(tiny_data, tmp_path, capsys):
    asked = ("--dataset", tiny_data, *SMALL, "--checkpoint-dir", tmp_path / "run")
    said = refused(capsys, *asked, "--mlflow", "file:mlruns")
    assert "mlflow is not installed. Install it (pip install mlflow)" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed: pip install mlflow"
)
def test_mlflow_holds_every_epoch_and_a_resumed_run_stands_beside_the_first(tiny_data, tmp_path):
    from mlflow.tracking import MlflowClient

    store, out = f"sqlite:///{tmp_path}/runs.db", tmp_path / "run"
    given = ("--dataset", tiny_data, *SMALL, "--checkpoint-dir", out, "--mlflow", store)
    train(*given, "--epochs", "2", "--save-every", "2")
    train("--resume", out / "step_4.pt", "--mlflow", store)
    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'spinlock train-noa'")
    second, first = client.search_runs([experiment.experiment_id])
    assert first.info.run_name == second.info.run_name
    assert first.data.params["epochs"] == "2"
    assert int(second.data.tags["begins_at_step"]) > int(first.data.tags["begins_at_step"]) == 0
    told = [client.get_metric_history(run.info.run_id, "val/traj") for run in (first, second)]
    assert [len(values) for values in told] == [2, 1]
    assert (told[0][1].step, told[0][1].value) == (told[1][0].step, told[1][0].value)


def test_the_documented_flags_are_those_of_the_command_with_their_keys_and_defaults():
    page = (Path(__file__).parents[1] / "docs" / "noa.md").read_text()
    (table,) = re.findall(r"<!-- flags -->\n((?:\|.*\n)+)", page)
    rows = [[c.strip() for c in line[1:-1].split("|")] for line in table.splitlines()[2:]]
    command = typer.main.get_group(commands()).commands["train-noa"]
    options = {option.opts[0]: option for option in command.params}
    assert {flag.strip("`") for flag, *_ in rows} == {*options}
    for flag, shown, key, _ in rows:
        name = flag.strip("`-").replace("-", "_")
        assert KEYS.get(name, "") == key.strip("`")
        if name in KEYS and shown.startswith("`"):
            assert str(default(name)) == str(plain(shown.strip("`"), "docs", numbered=False)[0])
