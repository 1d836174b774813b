"""`--init-from`: a new run that starts from the weights of another."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from noa_runs import SMALL, refused, train

from spinlock import artifact
from spinlock.config import load
from spinlock.data import schema
from spinlock.data.generate import GenerateConfig, generate
from spinlock.errors import ArtifactError
from spinlock.training import checkpoint
from spinlock.training.config import NOATraining
from spinlock.training.evaluate import evaluate
from spinlock.training.parallel import World
from spinlock.training.pretrained import read, start_from
from spinlock.training.trainer import Trainer

CNO = {
    "kind": "cno",
    "dt": 0.1,
    "num_layers": {"kind": "integer", "low": 2, "high": 2},
    "base_channels": {"kind": "integer", "low": 4, "high": 8},
}


def data(path: Path, **changes: int) -> Path:
    """Operators like those of `tiny_data`, and others."""
    document = {"operators": 4, "seed": 9, "grid": 16, "frames": 9, "domain": CNO, **changes}
    generate(GenerateConfig.model_validate(document), path)
    return path


@pytest.fixture(scope="module")
def run(tiny_data: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch with the three losses."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("pretrained") / "noa"
    given = ("--dataset", tiny_data, "--vqvae-path", tiny_tokenizer, "--enable-latent-loss")
    train(*given, *SMALL, "--epochs", "1", "--checkpoint-dir", out)
    return out


@pytest.fixture
def trained(run: Path) -> NOATraining:
    return load(NOATraining, run / "config.yaml")


@pytest.mark.parametrize("name", ["best_model", "epoch_1.pt"])
def test_before_its_first_update_it_is_the_agent_that_it_starts_from(name, run, trained):
    trainer = Trainer(trained)
    for parameter in trainer.task.modules.parameters():
        parameter.data.zero_()
    assert start_from(trainer.task, read(run / name)) == []
    assert trainer.task.validate(World(), 4) == evaluate(run / "best_model")


def test_fine_tuning_keeps_statistics_and_architecture_and_begins_anew(run, tmp_path):
    other = data(tmp_path / "other.h5")
    source, out = run / "best_model", tmp_path / "tuned"
    told = train(
        *("--init-from", source, "--dataset", other, "--timesteps", "8", "--epochs", "1"),
        *("--warmup-steps", "0", "--lr", "1e-9", "--checkpoint-dir", out),
    )
    assert f"Starting from weights: {source}\n  ✓ Loaded model weights" in told
    before, after = (artifact.load(path, "noa") for path in (source, out / "best_model"))
    for name, weight in after.weights.items():
        assert torch.allclose(weight, before.weights[name], atol=1e-6), name
    for name in ("mean", "scale", "parameter_mean", "parameter_scale"):
        assert torch.equal(after.weights[f"uafno.{name}"], before.weights[f"uafno.{name}"])
    origin = {"path": str(source), "weights": artifact.weights_fingerprint(source), "epoch": 1}
    assert after.provenance["init_from"] == origin
    assert json.loads((out / "init_from.json").read_text()) == {"init_from": origin}
    assert checkpoint.read(out / "epoch_1.pt")["run"]["global_step"] == 1


def test_whence_the_weights_came_is_kept_through_a_resume(run, tmp_path, tiny_data):
    out = tmp_path / "tuned"
    train(
        *("--init-from", run / "epoch_1.pt", "--dataset", tiny_data, *SMALL),
        *("--epochs", "1", "--checkpoint-dir", out),
    )
    train("--resume", out, "--checkpoint-dir", tmp_path / "more", "--epochs", "2")
    found = artifact.load(tmp_path / "more" / "best_model", "noa")
    assert found.provenance["init_from"]["path"] == str(run / "epoch_1.pt")
    assert found.provenance["init_from"]["updates"] == 3


def test_another_architecture_is_refused_by_every_key_with_both_values(
    run, tiny_data, tmp_path, capsys
):
    said = refused(
        *(capsys, "--init-from", run / "best_model", "--dataset", tiny_data, *SMALL),
        *("--base-channels", "8", "--modes", "2", "--checkpoint-dir", tmp_path / "run"),
    )
    assert "another architecture" in said
    assert "\n  model.base_channels: 4 there, 8 here\n  model.modes: 4 there, 2 here\n" in said
    assert "afno_blocks" not in said
    assert not (tmp_path / "run").exists()


def test_other_operator_parameters_are_refused(run, trained, tiny_data, tmp_path):
    path = tmp_path / "fewer.h5"
    path.write_bytes(tiny_data.read_bytes())
    with h5py.File(path, "a") as file:
        values, names = file[schema.CONDITIONING][:], file[schema.CONDITIONING].attrs["names"]
        del file[schema.CONDITIONING]
        file[schema.CONDITIONING] = values[:, 1:]
        file[schema.CONDITIONING].attrs["names"] = names[1:]
    count = values.shape[1]
    trainer = Trainer(_on(trained, path))
    with pytest.raises(
        ArtifactError, match=f"operator parameters: {count} there, {count - 1} here"
    ):
        start_from(trainer.task, read(run / "best_model"))


def test_another_grid_is_refused_only_where_it_has_other_fourier_modes(run, trained, tmp_path):
    larger = Trainer(_on(trained, data(tmp_path / "larger.h5", grid=32)))
    assert start_from(larger.task, read(run / "best_model")) == []
    smaller = Trainer(_on(trained, data(tmp_path / "smaller.h5", grid=8)))
    with pytest.raises(ArtifactError, match=r"grid: \(16, 16\) there, \(8, 8\) here"):
        start_from(smaller.task, read(run / "best_model"))


def test_a_projector_of_another_tokenizer_is_left_behind_and_told(run, trained):
    source = read(run / "best_model")
    trainer = Trainer(trained)
    before = {k: v.clone() for k, v in trainer.task.modules["projector"].state_dict().items()}
    (said,) = start_from(trainer.task, replace(source, tokenizer="sha256:another"))
    assert "The latent projector starts at random" in said
    after = trainer.task.modules["projector"].state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert start_from(trainer.task, source) == []
    assert not torch.equal(after["layers.0.weight"], before["layers.0.weight"])


def _on(trained: NOATraining, path: Path) -> NOATraining:
    """The same training on other data, without a tokenizer."""
    alone = trained.loss.model_copy(update={"lambda_commit": 0.0, "lambda_latent": 0.0})
    place = trained.data.model_copy(update={"path": path})
    return trained.model_copy(update={"data": place, "tokenizer": None, "loss": alone})
