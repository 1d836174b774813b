"""The tokenizer on disk and in front of the NOA: frozen, exact after a round trip, particular."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spinlock.artifact import load as load_artifact
from spinlock.errors import ArtifactError
from spinlock.features import CleaningConfig, FeatureConfig, Standardizer, extract, feature_names
from spinlock.vqvae import VQVAE, Tokenizer, VQVAEConfig, discover, plan

FRAMES, CHANNELS, GRID = 5, 2, (16, 12)


def trajectories(count=12, seed=0, frames=FRAMES, channels=CHANNELS, grid=GRID):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, 1, channels, *grid, generator=generator)
    drift = torch.randn(count, 1, channels, 1, 1, generator=generator)
    time = torch.arange(frames)[None, :, None, None, None] / frames
    smooth = (start + start.roll(1, -1) + start.roll(1, -2)) / 3
    return smooth * (1 - 0.5 * time * drift.abs()) + time * drift


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    features = FeatureConfig()
    raw = extract(trajectories(), features)
    standardizer = Standardizer.fit(raw, feature_names(features), CleaningConfig())
    clean = standardizer(raw)
    config = VQVAEConfig(embedding_dim=8, hidden_dim=16, max_clusters=4, samples_per_code=3)
    categories = discover(clean.double().numpy(), standardizer.names, config)
    vqvae = VQVAE(config, plan(config, categories, len(raw)))
    vqvae.initialise(clean)
    return Tokenizer(
        features,
        standardizer,
        categories,
        vqvae,
        frames=FRAMES,
        channels=CHANNELS,
        grid=GRID,
    )


def test_a_loaded_tokenizer_gives_the_same_numbers(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer", {"quality": 0.5}, {"seed": 0})
    before = torch.get_rng_state()
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert torch.equal(torch.get_rng_state(), before)
    a, b = tokenizer(trajectories(seed=1)), loaded(trajectories(seed=1))
    assert torch.equal(a.latents, b.latents)
    assert torch.equal(a.quantized, b.quantized)
    assert torch.equal(a.codes, b.codes)
    assert loaded.config == tokenizer.config
    found = load_artifact(tmp_path / "tokenizer", "vqvae")
    assert found.metrics == {"quality": 0.5}
    assert found.provenance == {"seed": 0}


def test_shapes_and_the_alignments_parts_fit_the_vqvae(tokenizer):
    seen = tokenizer(trajectories(3))
    assert seen.latents.shape == seen.quantized.shape == (3, tokenizer.latent_dim)
    standardized = tokenizer.standardizer(extract(trajectories(3), tokenizer.feature_config))
    latents = tokenizer.vqvae.encode(standardized)
    quantized = tokenizer.vqvae.quantize(latents)
    assert torch.equal(torch.cat(latents, 1), seen.latents)
    assert torch.equal(torch.cat(quantized.vectors, 1), seen.quantized)
    assert torch.equal(quantized.codes, seen.codes)


def test_the_gradient_reaches_the_trajectory_and_no_parameter(tokenizer):
    trajectory = trajectories(4, seed=2).requires_grad_()
    seen = tokenizer(trajectory)
    assert not seen.quantized.requires_grad
    (seen.latents - seen.quantized).square().mean().backward()
    assert trajectory.grad.isfinite().all()
    assert (trajectory.grad.flatten(1).abs().amax(1) > 0).all()
    assert not any(p.requires_grad or p.grad is not None for p in tokenizer.parameters())


def test_a_training_parent_leaves_it_frozen(tokenizer):
    parent = nn.ModuleList([tokenizer, nn.Dropout()]).train()
    assert parent[1].training
    assert not any(module.training for module in tokenizer.modules())
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer(trajectories())
    tokenizer.vqvae.after_update()
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_vqvae_it_was_made_from_can_go_on_training(tokenizer):
    vqvae = VQVAE(tokenizer.vqvae.config, tokenizer.vqvae.layout)
    made = Tokenizer(
        tokenizer.feature_config,
        tokenizer.standardizer,
        tokenizer.categories,
        vqvae,
        frames=FRAMES,
        channels=CHANNELS,
        grid=GRID,
    )
    assert all(p.requires_grad for p in vqvae.parameters())
    assert vqvae.training
    assert not made.vqvae.training


def test_an_item_does_not_depend_on_its_batch(tokenizer):
    together = tokenizer(trajectories(9, seed=3))
    for i, one in enumerate(trajectories(9, seed=3).split(1)):
        alone = tokenizer(one)
        torch.testing.assert_close(alone.latents[0], together.latents[i], rtol=1e-4, atol=1e-4)
        assert torch.equal(alone.codes[0], together.codes[i])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"frames": 6}, r"frames \(the initial one included\): 5 expected, 6 found"),
        ({"channels": 1}, "channels: 2 expected, 1 found"),
        ({"grid": (16, 16)}, r"grid: \(16, 12\) expected, \(16, 16\) found"),
    ],
)
def test_other_trajectories_are_refused(tokenizer, other, message):
    with pytest.raises(ArtifactError, match=message):
        tokenizer(trajectories(**other))


def test_a_damaged_config_is_named(tokenizer, tmp_path):
    path = tmp_path / "tokenizer"
    tokenizer.save(path, {}, {})
    description = json.loads((path / "artifact.json").read_text())
    description["config"]["frames"] = "many"
    (path / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="its config is damaged: frames"):
        Tokenizer.load(path)


def test_weights_of_another_size_are_named(tokenizer, tmp_path):
    path = tmp_path / "tokenizer"
    tokenizer.save(path, {}, {})
    description = json.loads((path / "artifact.json").read_text())
    description["config"]["vqvae"]["embedding_dim"] = 9
    (path / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="its weights do not fit its config"):
        Tokenizer.load(path)


def test_a_tokenizer_of_the_first_layout_is_to_be_trained_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer", {}, {})
    weights = tmp_path / "tokenizer" / "weights.safetensors"
    save_file({**load_file(weights), "vqvae.encoder.3.weight": torch.zeros(1)}, weights)
    with pytest.raises(ArtifactError, match="Train it again"):
        Tokenizer.load(tmp_path / "tokenizer")
