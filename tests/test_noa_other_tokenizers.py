"""A NOA aligned with VQ-VAEs that were trained on other features than ours."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spinlock.config import replace
from spinlock.data import open_dataset
from spinlock.errors import ArtifactError, SpinlockError, TrainingError
from spinlock.evaluation.alignment import diagnose_alignment
from spinlock.evaluation.probe import probe
from spinlock.evaluation.subject import load_subject
from spinlock.evaluation.validation import validate
from spinlock.features import FeatureConfig, extract
from spinlock.training.config import training_config
from spinlock.training.evaluate import evaluate
from spinlock.training.noa_task import NOATask
from spinlock.training.prepare import train_and_export
from spinlock.training.tokenizers import read_tokenizer
from spinlock.training.trainer import Trainer
from spinlock.vqvae import MatchedTokenizer, Tokenizer
from spinlock.vqvae.foreign import load_prototype

OWN = """\
import torch
from torch import nn

from spinlock.vqvae import Quantized


class Mine(nn.Module):
    features = {features}

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Linear(self.features, 12)

    def encode(self, standardized):
        return list(self.body(standardized).tanh().split([8, 4], dim=1))
{more}

def vqvae():
    return Mine()
"""
QUANTIZES = """
    def quantize(self, latents):
        codes = torch.stack([(latent.mean(1) > 0).long() for latent in latents], 1)
        return Quantized([latent.detach().sign() for latent in latents], codes)
"""
DECODES = """
    def decode(self, vectors):
        return torch.cat(vectors, 1) @ self.body.weight
"""


@pytest.fixture
def document(tiny_data: Path) -> dict[str, Any]:
    return {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "feature_matching": "pad-truncate",
        "model": {
            "base_channels": 4,
            "encoder_levels": 1,
            "modes": 4,
            "afno_blocks": 1,
            "blocks_per_level": 1,
        },
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "batch_size": 4,
        "epochs": 1,
        "seed": 1,
    }


def own(tmp_path: Path, features: int = 20, more: str = QUANTIZES + DECODES) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(features=features, more=more))
    return path


def trainer(document: dict[str, Any], tokenizer: Path, **changes: Any) -> Trainer:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    filled = replace(document, {"tokenizer": str(tokenizer), **dotted})
    return Trainer(training_config(filled, where="test"))


def numbers(run: Trainer) -> dict[str, float]:
    (report,) = run.epochs()
    return {k: v for k, v in report.metrics.items() if k not in ("seconds", "peak_memory_bytes")}


@pytest.mark.parametrize("features", [20, 300])
def test_ours_are_standardized_over_the_truth_then_padded_or_truncated(
    document: dict[str, Any], tmp_path: Path, tiny_data: Path, features: int
) -> None:
    task = trainer(document, own(tmp_path, features)).task
    assert isinstance(task, NOATask)
    matched = task.tokenizer
    assert isinstance(matched, MatchedTokenizer)
    frames = open_dataset(tiny_data).trajectories(task.split.train, slice(0, 9))
    seen = matched(frames)
    ours = matched.standardizer(extract(frames, FeatureConfig()))
    width = min(features, ours.shape[1])
    assert torch.equal(seen.features[:, :width], ours[:, :width])
    assert not seen.features[:, width:].any()
    torch.testing.assert_close(ours.mean(0), torch.zeros(ours.shape[1]), atol=1e-4, rtol=0)


def test_any_vqvae_with_encode_trains_by_the_terms_that_it_can_give(
    document: dict[str, Any], tmp_path: Path
) -> None:
    every = {"loss__lambda_recon": 0.1, "loss__lambda_project": 0.1, "loss__lambda_tokens": 0.0}
    found = numbers(trainer(document, own(tmp_path), **every))
    assert {f"val/{t}" for t in ("traj", "commit", "latent", "recon", "project")} <= found.keys()
    assert "val/tokens" not in found
    bare = own(tmp_path, more="")
    with pytest.raises(TrainingError, match=r"cannot be compared with by commit, only by latent"):
        trainer(document, bare)
    assert "val/commit" not in numbers(trainer(document, bare, loss__lambda_commit=0))


def test_only_the_noa_learns_and_a_resumed_run_is_the_same(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = own(tmp_path)
    straight = trainer(document, path, epochs=2)
    assert isinstance(straight.task, NOATask)
    assert straight.task.tokenizer is not None
    before = {k: v.clone() for k, v in straight.task.tokenizer.state_dict().items()}
    first, second = straight.epochs()
    for name, value in straight.task.tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), name
    begun = trainer(document, path, epochs=2)
    assert next(begun.epochs()).metrics["val/traj"] == first.metrics["val/traj"]
    begun.save(tmp_path / "checkpoint")
    resumed = trainer(document, path, epochs=2)
    resumed.restore(tmp_path / "checkpoint")
    (last,) = resumed.epochs()
    for name in ("val/traj", "val/commit", "val/latent"):
        assert last.metrics[name] == second.metrics[name]
    resumed.task.export(tmp_path / "out", last.metrics, {})
    assert evaluate(tmp_path / "out")["val/latent"] == last.metrics["val/latent"]


def test_another_vqvae_in_the_same_file_is_not_the_one_that_a_run_was_trained_with(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = own(tmp_path)
    trainer(document, path).save(tmp_path / "checkpoint")
    path.write_text(path.read_text().replace("manual_seed(4)", "manual_seed(5)"))
    with pytest.raises(ArtifactError, match="tokenizer: sha256"):
        trainer(document, path).restore(tmp_path / "checkpoint")


def test_without_matching_both_lists_of_features_are_named(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = own(tmp_path, more='    feature_names = ("speed", "width")\n' + QUANTIZES)
    with pytest.raises(ArtifactError) as error:
        trainer(document, path, feature_matching="exact")
    said = str(error.value)
    assert "mine.py: this VQ-VAE reads 20 features (speed, width)" in said
    assert "initial." in said
    assert "--feature-matching" in said


def test_diagnoses_by_family_refuse_it_and_that_of_gradients_looks_at_the_states_alone(
    document: dict[str, Any], tmp_path: Path, tiny_data: Path
) -> None:
    vqvae, noa = own(tmp_path), tmp_path / "noa"
    train_and_export(trainer(document, vqvae), noa)
    for examine in (diagnose_alignment, validate):
        with pytest.raises(ArtifactError, match=r"mine.py: .* not those computed of a rollout"):
            examine(noa, vqvae, tiny_data)
    found = probe(load_subject(noa), samples=2)
    assert found.tokenizer is None
    assert any("commit, latent; the VQ-VAE at" in note for note in found.notes), found.notes


def test_a_file_that_is_no_vqvae_is_told_what_would_be_one(tiny_data: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a VQ-VAE\. Expected the directory of a trained"):
        read_tokenizer(tiny_data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = 1\n", "no function vqvae"),
        ("def vqvae(): return 3\n", "gives a int; expected a torch module"),
        (OWN.format(features='"many"', more=""), "gives a Mine; expected a torch module|str"),
        (None, "there is no such Python file"),
    ],
)
def test_a_python_file_that_gives_no_vqvae_is_told_what_it_lacks(
    tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content.replace("nn.Linear(self.features", "nn.Linear(3"))
    with pytest.raises(SpinlockError, match=told):
        read_tokenizer(path)


def test_a_tokenizer_of_stored_features_is_matched_too(
    document: dict[str, Any], tmp_path: Path, tiny_tokenizer: Path
) -> None:
    whole = Tokenizer.load(tiny_tokenizer)
    stored = Tokenizer(
        FeatureConfig(source="stored", families=("theirs",)),
        whole.standardizer,
        whole.categories,
        whole.vqvae,
        frames=None,
        channels=1,
        grid=(16, 16),
    )
    stored.save(tmp_path / "stored", {}, {})
    with pytest.raises(ArtifactError, match=f"reads {stored.inputs} features"):
        trainer(document, tmp_path / "stored", feature_matching="exact")
    assert numbers(trainer(document, tmp_path / "stored"))["val/commit"] > 0


def test_a_matched_tokenizer_of_our_own_is_left_as_it_is(
    document: dict[str, Any], tiny_tokenizer: Path
) -> None:
    exact = numbers(trainer(document, tiny_tokenizer, feature_matching="exact"))
    assert numbers(trainer(document, tiny_tokenizer)) == exact


def test_the_prototypes_own_checkpoint_aligns_as_it_is_and_as_it_was_imported(
    document: dict[str, Any], tmp_path: Path, real_data: Path
) -> None:
    source = real_data / "prototype_vqvae" / "best_model.pt"
    load_prototype(source).vqvae.save(tmp_path / "imported", {}, {})
    exact = {"feature_matching": "exact"}
    with pytest.raises(ArtifactError, match=r"reads 229 features \(initial::.* and 223 more\)"):
        trainer(document, source, **exact)
    found = [numbers(trainer(document, p)) for p in (source, tmp_path / "imported")]
    assert found[0] == found[1]
    assert found[0]["val/commit"] > 0
    assert found[0]["val/latent"] > 0


def test_the_artifact_of_a_noa_is_no_tokenizer(
    document: dict[str, Any], tmp_path: Path, tiny_tokenizer: Path
) -> None:
    train_and_export(trainer(document, tiny_tokenizer), tmp_path / "noa")
    with pytest.raises(ArtifactError, match="expected a vqvae, found a noa"):
        read_tokenizer(tmp_path / "noa")
