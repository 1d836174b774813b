"""A checkpoint of the prototype is one model, whichever way it was written, or a contradiction."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    Change,
    Content,
    Rewrite,
    assert_parity,
    content_of,
    outputs_of,
    rewriter,
    setting,
    without,
)
from torch import Tensor

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign import PrototypeVQVAE, load_prototype


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


# Layouts


def with_keys(rename: Callable[[str], str]) -> Change:
    def change(content: Content) -> None:
        state = content["model_state_dict"]
        content["model_state_dict"] = {rename(key): value for key, value in state.items()}

    return change


def less_the_cnn(content: Content) -> None:
    """As from the prototype without an encoder of initial fields: all 229 inputs are features."""
    state = content["model_state_dict"]
    content["model_state_dict"] = {k: v for k, v in state.items() if not k.startswith("initial")}
    for key in ("feature_names", "feature_mask", "normalization_stats"):
        del content[key]
    content["pre_model_group_indices"] = content["model_config"]["group_indices"]


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(lambda key: key, id="vqvae and initial_encoder"),
        pytest.param(lambda key: f"_orig_mod.{key}", id="compiled"),
        pytest.param(lambda key: key.replace("vqvae.", "vqvae._orig_mod."), id="compiled inside"),
        pytest.param(lambda key: key.removeprefix("vqvae."), id="raw"),
        pytest.param(
            lambda key: f"_orig_mod.{key}".replace("_orig_mod.vqvae.", "_orig_mod."),
            id="raw, compiled",
        ),
    ],
)
@pytest.mark.parametrize("cnn", [True, False])
def test_every_layout_of_keys_gives_the_same_model(
    rewrite: Rewrite, record: dict[str, Tensor], rename: Callable[[str], str], cnn: bool
) -> None:
    def change(content: Content) -> None:
        if not cnn:
            less_the_cnn(content)
        with_keys(rename)(content)

    found = load_prototype(rewrite(change)).vqvae
    assert_parity(found, record)
    if cnn:
        embedding = found.initial_embedding(record["manual_initial"][:16], record["initial_fields"])
        torch.testing.assert_close(embedding, record["initial_embedding"], rtol=0, atol=1e-5)
    else:
        with pytest.raises(ArtifactError, match="has no encoder of initial fields"):
            found.initial_embedding(record["manual_initial"][:16], record["initial_fields"])


def at_the_top(content: Content) -> None:
    """As `seeds` of the prototype describe its older checkpoints."""
    content["group_indices"] = content.pop("model_config")["group_indices"]


def in_the_recipe(content: Content) -> None:
    resolved = content.pop("model_config")
    content["config"] |= {key: resolved[key] for key in ("group_indices", "input_dim", "levels")}


def from_the_features(content: Content) -> None:
    less_the_cnn(content)
    del content["model_config"]


@pytest.mark.parametrize(
    "change",
    [
        without("model_config.levels"),
        without("model_config.levels", "config.levels"),
        without("model_config.input_dim", "model_config.group_hidden_dim"),
        without("feature_names", "feature_mask", "feature_cleaning_params"),
        without("normalization_stats", "pre_model_group_indices"),
        without("config.families"),
        without("config", "metrics", "epoch", "val_loss"),
        at_the_top,
        in_the_recipe,
        from_the_features,
    ],
)
def test_what_a_config_leaves_out_is_inferred_from_the_tensors(
    rewrite: Rewrite,
    record: dict[str, Tensor],
    vqvae: PrototypeVQVAE,
    change: Change,
) -> None:
    found = load_prototype(rewrite(change)).vqvae
    assert found.config.codebooks == vqvae.config.codebooks
    assert found.config.hidden_dim == 512
    assert_parity(found, record)


def test_robust_statistics_are_known_by_their_names(rewrite: Rewrite) -> None:
    def change(content: Content) -> None:
        content["normalization_stats"] = {
            name: {"median": stats["mean"], "mad": stats["std"]}
            for name, stats in content["normalization_stats"].items()
        }

    categories = load_prototype(rewrite(change)).vqvae.config.categories
    assert [c.normalization.method for c in categories if c.normalization] == ["robust"] * 2


# Contradictions


def reordered(content: Content) -> None:
    groups = content["model_config"]["group_indices"]
    content["model_config"]["group_indices"] = dict(reversed(groups.items()))


STATE = "model_state_dict"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("model_config.input_dim", 225), "input_dim is 225 .* but 229 by its tensors"),
        (setting("model_config.group_hidden_dim", 64), "group_hidden_dim is 64 .* but 512"),
        (setting("model_config.group_embedding_dim", 8), "group_embedding_dim is 8 .* but 256"),
        (
            setting("model_config.levels.cluster_2.1.num_tokens", 40),
            "num_tokens of cluster_2 at level 1 is 40 in its config, but 48 by its tensors",
        ),
        (
            setting("model_config.levels.cluster_1.2.latent_dim", 12),
            "latent_dim of cluster_1 at level 2 is 12 in its config, but 112 by its tensors",
        ),
        (
            setting("model_config.levels.cluster_1", [{"num_tokens": 40}]),
            "number of levels of cluster_1 is 1 in its config, but 3",
        ),
        (
            setting("model_config.group_indices.cluster_1", [0, 1]),
            "number of inputs of cluster_1 is 2 in its config, but 102",
        ),
        (
            setting("model_config.group_indices.cluster_1", list(range(200, 302))),
            "cluster_1 reads inputs that are not among 229",
        ),
        (reordered, r"order of the categories is \['cluster_2', 'cluster_1'\]"),
        (setting("feature_names", ["a", "b"]), "number of feature_names is 2 .* but 201"),
        (setting("feature_mask", [True]), "feature_names is 201 in its config, but 1 by"),
        (
            setting("config.families.initial.encoder_params.manual_dim", 13),
            "manual_dim of family 'initial' is 13 in its config, but 14 by its feature_names",
        ),
        (
            setting("normalization_stats.cluster_1", {"mean": [0.0], "std": [1.0]}),
            "number of features of cluster_1 is 74 in its config, but 1 by mean",
        ),
        (
            setting("normalization_stats.cluster_1", {"min": [0.0]}),
            r"normalization_stats of cluster_1 are \['min'\]; expected mean and std",
        ),
        (setting("normalization_stats", {"cluster_1": {"mean": "x"}}), "not one of the prototype"),
        (setting("feature_names", 5), "not one of the prototype: feature_names"),
        (setting("config", []), "its 'config' is a list, not a dictionary"),
        (without("model_config"), "does not say which inputs a category reads"),
        (without("feature_names", "config.families"), "does not say how many features its encoder"),
        (without(STATE), "not a checkpoint of the prototype: no model_state_dict"),
        (setting(STATE, {"weight": torch.ones(1)}), "not a VQ-VAE of the prototype"),
        (setting(STATE, {"epoch": 3}), "'epoch', which is not a tensor"),
    ],
)
def test_a_contradiction_names_both_sides(rewrite: Rewrite, change: Change, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_prototype(rewrite(change))


PROJECTION = "vqvae.projector.projection_heads.cluster_2.2"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vqvae.residual_decoder.0.weight", torch.ones(1), "not known: residual_decoder.0.weight"),
        (
            "initial_encoder.manual_encoder.0.weight",
            torch.ones(1),
            "not known: initial_encoder.man",
        ),
        ("vqvae.vq_layers.6.embedding.weight", torch.ones(2, 2), "do not fit its config"),
        ("vqvae.vq_layers.5.embedding.weight", None, "no tensor for 'codebooks.5'"),
        ("vqvae.vq_layers.5.embedding.weight", torch.ones(48, 219), "latent_dim of cluster_2"),
        ("vqvae.vq_layers.5.embedding.weight", torch.ones(48, 0), r"has the shape \(48, 0\)"),
        ("vqvae.vq_layers.5.embedding.weight", torch.ones(48), r"has the shape \(48,\)"),
        ("vqvae.vq_layers.5.embedding.weight", torch.full((48, 220), torch.nan), "not finite: cod"),
        ("vqvae.shared_decoder.3.bias", None, "do not fit its config.*decoder.2.bias"),
        (
            "vqvae.shared_decoder.3.bias",
            torch.ones(229, dtype=torch.int64),
            "do not fit its config",
        ),
        (f"{PROJECTION}.0.weight", torch.ones(220, 255), "do not fit its config.*projectors.5.0"),
        ("vqvae.feature_extractor.group_mlps.other.net.0.weight", torch.ones(1), "but project"),
        ("feature_extractor.group_mlps.cluster_1.net.0.weight", torch.ones(1), "two tensors for"),
        ("initial_encoder.cnn_encoder.bn_final.weight", None, "do not fit its config"),
    ],
)
def test_tensors_that_are_missing_unknown_or_misshapen_are_named(
    rewrite: Rewrite, key: str, value: Tensor | None, message: str
) -> None:
    def change(content: Content) -> None:
        content[STATE] = dict(content[STATE])
        if value is None:
            del content[STATE][key]
        else:
            content[STATE][key] = value

    with pytest.raises(ArtifactError, match=f"(?s){message}"):
        load_prototype(rewrite(change))
