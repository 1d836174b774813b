"""The VQ-VAE: batched equals plain, gradients go where they should, and it learns."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from spinlock.vqvae import (
    TERMS,
    VQVAE,
    Categories,
    Layout,
    Level,
    VQVAEConfig,
    discover,
    plan,
    predict,
    quality,
    weights,
)
from spinlock.vqvae.model import straight_through

SMALL = VQVAEConfig(
    embedding_dim=10, hidden_dim=12, decoder_hidden_dim=9, partial_hidden_dim=7, ema_decay=0.9
)


def categories(*sizes, shuffle=0):
    order = np.random.default_rng(shuffle).permutation(sum(sizes))
    groups = np.split(order, np.cumsum(sizes)[:-1])
    return Categories(
        groups=tuple(tuple(int(i) for i in group) for group in groups),
        silhouette=None,
        orthogonality=0.0,
        orthogonality_target=0.25,
    )


def make_model(config=SMALL, sizes=(6, 3, 1), samples=100, seed=0):
    torch.manual_seed(seed)
    return VQVAE(config, plan(config, categories(*sizes), samples))


def clustered(seed=0, samples=256, groups=4, width=6):
    """Standardized features: each group takes one of six shapes, with a little noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(groups):
        shapes = rng.normal(size=(6, 2)) @ rng.normal(size=(2, width))
        parts.append(shapes[rng.integers(6, size=samples)])
    x = np.concatenate(parts, axis=1) + 0.05 * rng.normal(size=(samples, groups * width))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def linear(affine, g, x, width):
    """Group g's own affine map to `width` entries."""
    return x @ affine.weight[g, :width, : x.shape[1]].T + affine.bias[g, :width]


def test_the_batched_encoder_equals_a_plain_loop_over_categories():
    model = make_model().eval()
    layout, config = model.layout, model.config
    x = torch.randn(5, layout.features)
    found = model.encode(x)
    (network, norm), (project, project_norm) = model.encoder, model.projector
    norm_weights = norm.weight.split(config.embedding_dim), norm.bias.split(config.embedding_dim)
    project_weights = (
        project_norm.weight.split(model.latent_dims),
        project_norm.bias.split(model.latent_dims),
    )
    q = 0
    for g, (group, levels) in enumerate(zip(layout.groups, layout.levels, strict=True)):
        hidden = F.relu(linear(network.first, g, x[:, list(group)], config.hidden_dim))
        embedding = F.layer_norm(
            linear(network.second, g, hidden, config.embedding_dim),
            (config.embedding_dim,),
            *(each[g] for each in norm_weights),
        )
        dims = [level.latent_dim for level in levels]
        for latent in linear(project.affine, g, embedding, sum(dims)).split(dims, 1):
            expected = F.layer_norm(
                latent, latent.shape[1:], *(each[q] for each in project_weights)
            )
            torch.testing.assert_close(found[q], expected)
            q += 1
    assert q == len(found)


def test_the_batched_partial_decoders_equal_a_plain_loop():
    model = make_model().eval()
    vectors = torch.randn(5, model.latent_dim)
    found = model.reconstruct_partially(vectors.T)
    network, hidden_dim = model.partial_decoder, model.config.partial_hidden_dim
    levels, expected = model.layout.num_levels, []
    for q, vector in enumerate(model.split(vectors)):
        hidden = F.relu(linear(network.first, q, vector, hidden_dim))
        width = len(model.layout.groups[q // levels])
        expected.append(linear(network.second, q, hidden, width))
    torch.testing.assert_close(found, torch.cat(expected, 1).T)


def test_each_partial_decoder_is_asked_for_its_own_category():
    model = make_model()
    x = torch.randn(5, 10)
    asked = [x[:, list(group)] for group in model.layout.groups for _ in range(3)]
    assert torch.equal(model.partial_target(x), torch.cat(asked, 1).T)


def test_each_groups_weights_start_as_its_own_linear_layers_would():
    model = make_model(VQVAEConfig(), sizes=(40, 4))
    weight = model.encoder[0].first.weight
    for g, n in enumerate((40, 4)):
        expected = nn.Linear(n, 512).weight.std().item()
        assert weight[g, :, :n].std().item() == pytest.approx(expected, rel=0.1)
    assert (weight[1, :, 4:] == 0).all()


def test_padding_never_gets_a_weight():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    padded = {name: p == 0 for name, p in model.named_parameters() if "weight" in name}
    for seed in range(3):
        terms = predict(model, torch.randn(8, 10, generator=torch.Generator().manual_seed(seed)))
        sum(term(terms) for term in TERMS.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        if name in padded:
            assert (p[padded[name]] == 0).all(), name


def test_quantizing_again_changes_nothing_and_decoding_is_deterministic():
    model = make_model().eval()
    x = torch.randn(20, 10)
    once = model.quantize(model.encode(x))
    twice = model.quantize(once.vectors)
    assert torch.equal(once.codes, twice.codes)
    for a, b in zip(once.vectors, twice.vectors, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.decode(once.vectors), model.decode(once.vectors))
    assert torch.equal(model.decode(once.vectors), model.decode_codes(once.codes))
    assert torch.equal(model.decode(once.vectors), predict(model, x).reconstruction)


def test_latents_are_category_major_and_as_wide_as_planned():
    model = make_model()
    latents = model.encode(torch.randn(2, 10))
    assert [z.shape[1] for z in latents] == [4, 8, 12, 4, 4, 8, 4, 4, 4]
    assert model.latent_dim == sum(z.shape[1] for z in latents) == 52
    flat = torch.cat(latents, 1)
    assert torch.equal(model.flatten(model.unflatten(flat)), flat)


def test_the_straight_through_gradient_is_the_identity():
    latents = torch.randn(3, 2, 4, requires_grad=True)
    vectors = torch.randn(3, 2, 4, requires_grad=True)
    upstream = torch.randn(3, 2, 4)
    straight_through(latents, vectors).backward(upstream)
    assert torch.equal(latents.grad, upstream)
    assert vectors.grad is None
    assert torch.equal(straight_through(latents, vectors), vectors)


def test_quantized_vectors_carry_a_gradient_in_training_and_none_in_eval():
    model = make_model()
    x = torch.randn(4, 10, requires_grad=True)
    assert all(v.requires_grad for v in model.train().quantize(model.encode(x)).vectors)
    assert not any(v.requires_grad for v in model.eval().quantize(model.encode(x)).vectors)


def test_the_optimizer_never_holds_a_codebook():
    model = make_model()
    assert not any("bank" in name for name, _ in model.named_parameters())
    before = model.bank.codebooks.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sum(term(predict(model, torch.randn(8, 10))) for term in TERMS.values()).backward()
    optimizer.step()
    assert torch.equal(model.bank.codebooks, before)
    model.after_update()
    assert not torch.equal(model.bank.codebooks, before)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_is_finite_and_its_gradient_reaches_the_encoders(name):
    model = make_model()
    TERMS[name](predict(model, torch.randn(16, 10))).backward()
    gradients = [p.grad for p in model.encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(
    "batch",
    [torch.zeros(8, 10), torch.ones(1, 10), torch.randn(2, 10), 1e6 * torch.randn(8, 10)],
    ids=["equal items", "one item", "two items", "huge"],
)
def test_every_term_is_finite_in_value_and_gradient_at_the_edges(name, batch):
    model = make_model()
    value = TERMS[name](predict(model, batch))
    value.backward()
    assert value.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["reconstruction", "commitment", "informativeness"])
def test_terms_over_items_add_up_over_micro_batches(name):
    model = make_model().eval()
    x = torch.randn(12, 10)
    whole = TERMS[name](predict(model, x))
    parts = sum(len(part) / 12 * TERMS[name](predict(model, part)) for part in x.split(5))
    torch.testing.assert_close(whole, parts)


def test_permuted_features_permute_nothing_but_themselves():
    x = clustered()
    names = [f"f{i}" for i in range(x.shape[1])]
    order = np.random.default_rng(0).permutation(x.shape[1])
    models = []
    for values in (x, x[:, order]):
        layout = plan(SMALL, discover(values, names, SMALL), len(x))
        torch.manual_seed(0)
        models.append(VQVAE(SMALL, layout).eval())
    plain, permuted = models
    for name, value in plain.state_dict().items():
        assert torch.equal(permuted.state_dict()[name], value), name
    a = plain.encode(torch.from_numpy(x))
    b = permuted.encode(torch.from_numpy(x[:, order]))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def train(model, x, steps, seed=0, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=2e-3)
    scale = weights(model.config)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        batch = x[torch.randint(len(x), (64,), generator=generator)]
        prediction = predict(model, batch)
        loss = sum(scale[name] * term(prediction) for name, term in TERMS.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_update()
    return optimizer


def test_training_on_clustered_features_reconstructs_them_and_uses_the_codes():
    x = torch.from_numpy(clustered())
    config = SMALL.model_copy(
        update={"hidden_dim": 64, "embedding_dim": 32, "decoder_hidden_dim": 64}
    )
    layout = plan(config, discover(x.numpy(), [str(i) for i in range(24)], config), len(x))
    torch.manual_seed(0)
    model = VQVAE(config, layout)
    model.initialise(x)
    before = quality(model, x)
    train(model, x, 200)
    after = quality(model, x)
    assert before.reconstruction < 0.1
    assert after.reconstruction > 0.9
    assert after.topography > 0.9
    assert after.summary()["utilization"] > 0.5
    assert after.summary()["perplexity"] > 3


def test_training_resumed_from_state_equals_training_straight_through():
    x = torch.from_numpy(clustered())
    config = SMALL.model_copy(
        update={"dead_code_reset_interval": 4, "dead_code_threshold": 100.0, "dropout": 0.0}
    )
    layout = plan(config, categories(10, 8, 6), len(x))
    straight = VQVAE(config, layout)
    straight.initialise(x)
    optimizer = train(straight, x, 10)
    resumed = VQVAE(config, layout)
    resumed.load_state_dict(straight.state_dict())
    again = torch.optim.Adam(resumed.parameters(), lr=2e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(straight, x, 10, seed=1, optimizer=optimizer)
    train(resumed, x, 10, seed=1, optimizer=again)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_quality_does_not_depend_on_how_the_set_is_batched():
    model, x = make_model(), torch.randn(60, 10)
    whole, parts = quality(model, x), quality(model, x, batch=7)
    assert model.training
    assert whole.utilization == parts.utilization
    assert whole.summary() == pytest.approx(parts.summary(), rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=6),
    samples=st.integers(3, 100_000),
)
def test_no_codebook_is_larger_than_its_data_can_fill(sizes, samples):
    layout = plan(VQVAEConfig(), categories(*sizes), samples)
    for levels in layout.levels:
        tokens = [level.num_tokens for level in levels]
        assert tokens == sorted(tokens, reverse=True)
        assert max(tokens) <= max(2, samples // 10)
        assert all(level.latent_dim % 4 == 0 for level in levels)


def test_a_planned_layout_survives_json():
    layout = plan(VQVAEConfig(), categories(5, 3), 200)
    assert Layout.model_validate_json(layout.model_dump_json()) == layout
    assert layout.codebooks[0] == Level(num_tokens=18, latent_dim=4)


@pytest.mark.parametrize("text", ["", "0.5:", "1:-1", "a:b", "1:inf"])
def test_ratios_that_are_none_are_refused(text):
    with pytest.raises(ValidationError, match=r"expected numbers|must be a positive"):
        VQVAEConfig(compression_ratios=text)
