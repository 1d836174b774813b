"""A real checkpoint of the research prototype gives the prototype's own outputs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import (
    Content,
    Rewrite,
    assert_parity,
    content_of,
    outputs_of,
    rewriter,
)
from torch import Tensor
from typer.testing import CliRunner

from spinlock import artifact
from spinlock.cli import commands
from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign import KIND, PrototypeVQVAE, load_prototype

STATS = "normalization_stats.npz"


@pytest.fixture(scope="module")
def source(real_data: Path) -> Path:
    return real_data / "prototype_vqvae"


@pytest.fixture(scope="module")
def vqvae(source: Path) -> PrototypeVQVAE:
    return load_prototype(source / "best_model.pt").vqvae


@pytest.fixture(scope="module")
def record(source: Path) -> dict[str, Tensor]:
    return outputs_of(source)


@pytest.fixture(scope="module")
def original(source: Path) -> Content:
    return content_of(source)


@pytest.fixture
def rewrite(original: Content, tmp_path: Path) -> Rewrite:
    return rewriter(original, tmp_path)


# Parity


def test_latents_tokens_and_reconstruction_are_those_of_the_prototype(
    vqvae: PrototypeVQVAE, record: dict[str, Tensor]
) -> None:
    assert_parity(vqvae, record)
    assert torch.equal(vqvae.tokens(record["features"]), record["tokens"])
    again = vqvae.decode_codes(record["tokens"])
    torch.testing.assert_close(again, record["reconstruction"], rtol=0, atol=1e-5)


def test_the_embedding_of_initial_fields_is_that_of_the_prototype(
    vqvae: PrototypeVQVAE, record: dict[str, Tensor]
) -> None:
    found = vqvae.initial_embedding(record["manual_initial"][:16], record["initial_fields"])
    torch.testing.assert_close(found, record["initial_embedding"], rtol=0, atol=1e-5)


def test_an_item_does_not_depend_on_its_batch(
    vqvae: PrototypeVQVAE, record: dict[str, Tensor]
) -> None:
    vqvae.train()  # as a parent module would
    alone = torch.cat(vqvae.encode(record["features"][5:6]), 1)
    torch.testing.assert_close(alone, record["latents"][5:6], rtol=0, atol=1e-5)
    field, manual = record["initial_fields"][5:6], record["manual_initial"][5:6]
    torch.testing.assert_close(
        vqvae.initial_embedding(manual, field), record["initial_embedding"][5:6], rtol=0, atol=1e-5
    )


def test_gradients_reach_the_features_and_no_weight(
    vqvae: PrototypeVQVAE, record: dict[str, Tensor]
) -> None:
    features = record["features"].clone().requires_grad_()
    latents = vqvae.encode(features)
    assert not any(vector.requires_grad for vector in vqvae.quantize(latents).vectors)
    torch.cat(latents, 1).square().sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).any(0).all()  # every feature is in some category
    assert not any(parameter.requires_grad for parameter in vqvae.parameters())


def test_loading_draws_no_random_number(source: Path) -> None:
    state = torch.get_rng_state()
    load_prototype(source / "best_model.pt")
    assert torch.equal(torch.get_rng_state(), state)


def test_what_came_with_the_model_is_plain_data(vqvae: PrototypeVQVAE, source: Path) -> None:
    config = vqvae.config
    assert config.inputs == 229
    assert [c.name for c in config.categories] == ["cluster_1", "cluster_2"]
    assert [[(x.num_tokens, x.latent_dim) for x in c.levels] for c in config.categories] == [
        [(40, 24), (40, 64), (40, 112)],
        [(48, 36), (48, 100), (48, 220)],
    ]
    assert sorted(i for c in config.categories for i in c.inputs) == list(range(229))
    assert config.feature_names is not None
    assert config.feature_mask is not None
    assert len(config.feature_names) == sum(config.feature_mask) == 201
    assert config.feature_names[14] == "summary::summary_0"
    assert config.cleaning is not None
    assert config.cleaning["percentile_range"] == [0.5, 99.5]
    assert config.initial is not None
    assert (config.initial.manual, config.initial.outputs) == (14, 28)
    assert json.loads(config.model_dump_json())  # no NaN, no array
    with np.load(source / STATS) as beside:
        for category in config.categories:
            found = category.normalization
            assert found is not None
            assert found.method == beside["_normalization_method"][0] == "standard"
            assert np.array_equal(np.float32(found.center), beside[f"{category.name}_mean"])
            assert np.array_equal(np.float32(found.scale), beside[f"{category.name}_std"])
            # The CNN's columns come after the manual ones, and were not standardized.
            assert category.features is not None
            shifted = [i if i < 14 else i + 28 for i in category.features]
            assert set(shifted) == set(category.inputs) - set(range(14, 42))


def test_metrics_and_recipe_come_along(source: Path) -> None:
    found = load_prototype(source / "best_model.pt")
    assert found.metrics["epoch"] == 20
    assert found.metrics["topo_post"] == 0.9854136109352112
    assert found.recipe["dataset_path"] == "datasets/orig_mid.h5"  # was a PosixPath
    assert found.recipe["compression_ratios_computed"]["cluster_1"] == [0.32, 0.82, 1.5]


# The statistics beside a checkpoint


def test_the_statistics_beside_a_checkpoint_must_be_its_own(
    rewrite: Rewrite, source: Path, tmp_path: Path
) -> None:
    path = rewrite(dict)
    shutil.copy(source / STATS, tmp_path / STATS)
    load_prototype(path)
    with np.load(source / STATS) as arrays:
        changed = dict(arrays)
    changed["cluster_2_std"][3] *= 1 + 1e-6
    np.savez(tmp_path / STATS, **changed)
    with pytest.raises(ArtifactError, match=r"statistics of cluster_2 .* different runs"):
        load_prototype(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"cluster_1_mean": np.array([None])}, "'cluster_1_mean.npy' is damaged: Object arrays"),
        ({"cluster_1_mean": np.array(["x"])}, "not one of the prototype"),
    ],
)
def test_statistics_of_another_kind_are_refused(
    rewrite: Rewrite, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = rewrite(dict)
    np.savez(tmp_path / STATS, allow_pickle=True, **arrays)
    with pytest.raises(ArtifactError, match=message):
        load_prototype(path)


# Conversion


def test_a_converted_checkpoint_gives_the_same_bits(
    source: Path, vqvae: PrototypeVQVAE, record: dict[str, Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "tokenizer"
    done = CliRunner().invoke(
        commands(), ["import-vqvae", str(source / "best_model.pt"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "cluster_2: 127 inputs; codes x entries 48 x 36, 48 x 100, 48 x 220" in done.output

    found = PrototypeVQVAE.load(out)
    assert found.config == vqvae.config
    assert_parity(found, record)
    features = record["features"]
    for one, other in zip(found.encode(features), vqvae.encode(features), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found.decode_codes(record["tokens"]), vqvae.decode_codes(record["tokens"]))
    initial = record["manual_initial"][:16], record["initial_fields"]
    assert torch.equal(found.initial_embedding(*initial), vqvae.initial_embedding(*initial))

    written = artifact.load(out, KIND)
    assert written.metrics["epoch"] == 20
    assert written.provenance["source"] == "best_model.pt"
    assert written.provenance["recipe"]["random_seed"] == 42
    assert sorted(path.name for path in out.iterdir()) == ["artifact.json", "weights.safetensors"]


def test_the_example_on_the_page_runs(
    source: Path, vqvae: PrototypeVQVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "prototype-checkpoints.md").read_text()
    (example,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "best_model.pt").symlink_to(source / "best_model.pt")
    vqvae.save(tmp_path / "runs" / "prototype", {}, {})
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/prototype-checkpoints.md", "exec"), {})


def test_import_does_not_replace_what_is_there(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        commands(), ["import-vqvae", str(source / "best_model.pt"), "--out", str(tmp_path)]
    )
    assert isinstance(done.exception, Exception)
    assert "is there already" in str(done.exception)
    assert not any(tmp_path.iterdir())


def test_a_damaged_artifact_is_refused(vqvae: PrototypeVQVAE, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    vqvae.save(out, {}, {})
    description = json.loads((out / "artifact.json").read_text())
    description["config"]["categories"][0]["inputs"][0] = 229
    (out / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=r"config is damaged.*inputs that are not among 229"):
        PrototypeVQVAE.load(out)
    description["config"]["categories"][0]["inputs"][0:1] = []
    (out / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="do not fit its config"):
        PrototypeVQVAE.load(out)


@pytest.mark.parametrize("inputs", [187, 228, 230])
def test_other_inputs_are_refused(vqvae: PrototypeVQVAE, inputs: int) -> None:
    with pytest.raises(ArtifactError, match=f"reads 229 inputs, found {inputs}"):
        vqvae.encode(torch.zeros(2, inputs))
    with pytest.raises(ArtifactError, match="reads 14 features and 1 channels, found 14 and 3"):
        vqvae.initial_embedding(torch.zeros(2, 14), torch.zeros(2, 3, 64, 64))
