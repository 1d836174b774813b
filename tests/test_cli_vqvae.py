"""`spinlock train-vqvae`: what it writes, how it goes on, and how it answers mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spinlock.cli import commands, run, vqvae
from spinlock.config import load
from spinlock.data import open_dataset
from spinlock.evaluation.run import load_run
from spinlock.features import extract, feature_names
from spinlock.training.recipe import VQVAERecipe
from spinlock.vqvae import TARGETS, Tokenizer

RECIPE = """\
input: DATA
output: OUT
epochs: 4
batch_size: 4
embedding_dim: 8
hidden_dim: 8
samples_per_code: 2
val_every_n_epochs: 1
use_torch_compile: false
features: {families: [initial]}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_data: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("DATA", str(tiny_data)).replace("OUT", str(tmp_path / "run")))
    return path


def train(*arguments: str | Path) -> str:
    words = ["train-vqvae", *map(str, arguments)]
    done = CliRunner().invoke(commands(), words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(capsys, *arguments: str | Path) -> str:
    words = ["train-vqvae", *map(str, arguments)]
    with pytest.raises(SystemExit) as ended:
        run(lambda: commands()(words, standalone_mode=False))
    assert ended.value.code == 2
    return capsys.readouterr().err


def weights(path: Path) -> dict[str, list[float]]:
    return {k: v.tolist() for k, v in Tokenizer.load(path).state_dict().items()}


def test_a_run_leaves_everything_that_is_documented(recipe, tmp_path):
    told = train("--config", recipe)
    out = tmp_path / "run"
    documented = {"best_model", "checkpoint", "metrics.json", "training_history.json"}
    documented |= {"categories.json", "normalization_stats.npz", "config.yaml"}
    assert {path.name for path in out.iterdir()} == documented
    metrics = json.loads((out / "metrics.json").read_text())
    assert {*metrics["targets"]} == {*TARGETS}
    assert all(name.replace("_", " ") in told for name in TARGETS)
    history = json.loads((out / "training_history.json").read_text())
    assert [row["epoch"] for row in history["history"]] == [1, 2, 3, 4]
    categories = json.loads((out / "categories.json").read_text())["categories"]
    statistics = np.load(out / "normalization_stats.npz")
    tokenizer = Tokenizer.load(out / "best_model")
    listed = [name for members in categories.values() for name in members]
    assert sorted(listed) == sorted(tokenizer.standardizer.names)
    for category, members in categories.items():
        assert statistics[f"{category}_std"].shape == (len(members),)
    assert load(VQVAERecipe, out / "config.yaml") == load(VQVAERecipe, recipe)
    quality = metrics["quality"]
    assert quality["reconstruction"] == pytest.approx(
        metrics["metrics"]["quality/reconstruction_quality"]
    )
    assert len(quality["category_reconstruction"]) == len(categories)
    assert len(quality["utilization"]) == len(metrics["codebooks"])


def test_a_run_that_is_resumed_equals_one_that_was_not(recipe, tmp_path):
    train("--config", recipe, "--output", tmp_path / "straight", "--set", "lr_schedule=constant")
    train("--config", recipe, "--output", tmp_path / "half", "--epochs", "2")
    half = weights(tmp_path / "half" / "best_model")
    train(
        *("--config", recipe, "--output", tmp_path / "whole"),
        *("--resume-from", tmp_path / "half" / "best_model"),
    )
    assert weights(tmp_path / "whole" / "best_model") == weights(
        tmp_path / "straight" / "best_model"
    )
    assert weights(tmp_path / "half" / "best_model") == half


def test_the_written_statistics_alone_standardize_as_the_tokenizer_does(recipe, tmp_path):
    train("--config", recipe, "--epochs", "1")
    out = tmp_path / "run"
    wanted, tokenizer = load(VQVAERecipe, recipe), Tokenizer.load(out / "best_model")
    raw = extract(open_dataset(wanted.input).trajectories([0, 1]), tokenizer.feature_config)
    raw *= torch.tensor([[1.0], [50.0]])  # the second in the tails
    columns = dict(zip(feature_names(tokenizer.feature_config), raw.T.numpy(), strict=True))
    expected = dict(zip(tokenizer.standardizer.names, tokenizer.standardizer(raw).T, strict=True))
    stored = np.load(out / "normalization_stats.npz")
    squeezed = 0
    for category, names in json.loads((out / "categories.json").read_text())["categories"].items():
        x = np.stack([columns[name] for name in names], axis=1)
        low, high, spread, mean, std = (
            stored[f"{category}_{name}"] for name in ("low", "high", "spread", "mean", "std")
        )
        excess = (x - x.clip(low, high)) / spread
        squeezed += np.count_nonzero(excess)
        found = x.clip(low, high) + spread * np.sign(excess) * np.log1p(abs(excess))
        for name, values in zip(names, ((found - mean) / std).T, strict=True):
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
    assert squeezed


def test_a_run_that_has_ended_is_taken_whole_to_another_directory(recipe, tmp_path):
    train("--config", recipe)
    given = ("--config", recipe, "--output", tmp_path / "other")
    train(*given, "--resume-from", tmp_path / "run")
    for name in ("run", "other"):
        files = {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")}
        assert Path("checkpoint/checkpoint.pt") in files
    assert load_run(tmp_path / "other").history == load_run(tmp_path / "run").history
    train(*given, "--resume-from", tmp_path / "other")


def test_a_run_that_is_stopped_in_its_first_epoch_goes_on(recipe, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vqvae, "train_and_export", stopped)
        done = CliRunner().invoke(commands(), ["train-vqvae", "--config", str(recipe)])
    assert done.exit_code == 130
    assert f"--resume-from {tmp_path / 'run'}" in done.output
    train("--config", recipe, "--resume-from", tmp_path / "run")
    train("--config", recipe, "--output", tmp_path / "straight")
    ours, theirs = (weights(tmp_path / name / "best_model") for name in ("run", "straight"))
    assert ours == theirs


def test_a_dry_run_shows_the_resolved_recipe_and_leaves_nothing(recipe, tmp_path):
    told = train("--config", recipe, "--dry-run", "--verbose", "--learning-rate", "0.01")
    assert "learning_rate: 0.01" in told
    assert "codebooks" in told
    assert "dropped" in told
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_dry_run_says_how_much_of_a_resumed_run_is_done(recipe, tmp_path):
    train("--config", recipe, "--epochs", "1")
    given = ("--config", recipe, "--dry-run", "--resume-from", tmp_path / "run")
    assert "12 updates in 4 epochs, of which 1 are done." in train(*given)


def test_an_interval_of_resets_that_the_run_never_reaches_is_told(recipe):
    given = ("--config", recipe, "--dry-run", "--set")
    told = (
        "⚠ Dead codes are never reset: dead_code_reset_interval is 13, and the run has 12 updates"
    )
    assert told in train(*given, "dead_code_reset_interval=13")
    assert "Dead codes" not in train(*given, "dead_code_reset_interval=12")


def test_a_directory_named_like_a_shipped_recipe_does_not_hide_it(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick").mkdir()
    train("--config", "quick", "--input", tiny_data, "--output", "quick", "--dry-run")


def test_shipped_recipes_go_by_their_names(tiny_data, tmp_path):
    for name in ("production", "quick"):
        told = train(
            *("--config", name, "--input", tiny_data, "--output", tmp_path / "run", "--dry-run")
        )
        assert f"input: {tiny_data}" in told.replace("\n", "")


def test_json_is_read_like_yaml(recipe, tmp_path, tiny_data):
    document = {"input": str(tiny_data), "output": "out", "batch_size": 7}
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    assert "batch_size: 7" in train("--config", tmp_path / "recipe.json", "--dry-run")


def test_mistakes_are_answered_with_one_message(recipe, tmp_path, capsys, tiny_data):
    recipe.write_text(recipe.read_text() + "comitment_cost: 1\n")
    said = refused(capsys, "--config", recipe)
    assert f"{recipe}:11: comitment_cost" in said
    assert "Did you mean 'commitment_cost'?" in said
    assert "Did you mean 'quick'?" in refused(capsys, "--config", "quik")
    assert "--input" in refused(capsys, "--config", "quick")
    given = ("--config", "quick", "--input", tiny_data, "--output", tmp_path / "run")
    assert "adaptive" in refused(capsys, *given, "--set", "compression_ratios=auto:luck")
    assert "windows" in refused(capsys, *given, "--set", "windows=3")
    missing = refused(capsys, *given, "--resume-from", tmp_path / "nowhere")
    assert "no run to resume" in missing
    unknown = "category_assignment={a: [initial.spatial.log_varianc.mean]}"
    assert "Did you mean" in refused(capsys, *given, "--set", unknown)
    stored = refused(capsys, *given, "--set", "features.source=stored")
    assert "are not stored in it" in stored
    families = "features.families=[sumary]"
    assert "no family 'sumary' to compute" in refused(capsys, *given, "--set", families)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_a_run_is_not_written_over(recipe, tmp_path, capsys):
    train("--config", recipe, "--epochs", "1")
    before = contents(tmp_path / "run")
    assert "--resume-from" in refused(capsys, "--config", recipe)
    train("--config", recipe, "--epochs", "2", "--output", tmp_path / "other")
    other = ("--config", recipe, "--resume-from", tmp_path / "other")
    assert f"{tmp_path / 'run'}: a run is here already" in refused(capsys, *other)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("names", [("config.yaml", "metrics.json"), ("best_model/notes.txt",)])
def test_a_directory_of_other_things_is_refused_before_any_work_and_stays(
    recipe, tmp_path, capsys, names
):
    for name in names:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    given = ("--config", recipe, "--set", f"features_cache={tmp_path / 'cache'}")
    for more in ((), ("--dry-run",)):
        assert "holds other things" in refused(capsys, *given, *more)
    assert not (tmp_path / "cache").exists()
    assert {*contents(tmp_path / "run").values()} == {b"mine"}


def test_a_wrong_place_is_told_before_features_are_computed(recipe, tmp_path, capsys):
    given = ("--config", recipe, "--set", f"features_cache={tmp_path / 'cache'}")
    nowhere = ("--resume-from", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for more in ((), ("--dry-run",)):
        assert "no run to resume" in refused(capsys, *given, *nowhere, *more)
        said = refused(capsys, *given, "--output", tmp_path / "file" / "run", *more)
        assert f"{tmp_path / 'file'} is a file. Choose another." in said
    assert not (tmp_path / "cache").exists()
    said = refused(capsys, "--config", recipe, "--set", f"features_cache={tmp_path / 'file'}")
    assert "cannot be the directory for computed features" in said


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
