"""The terms' values and gradients against their formulas, written out codebook by codebook."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spinlock.vqvae import TERMS, VQVAE, Categories, VQVAEConfig, plan, predict, weights
from spinlock.vqvae.losses import codebook_cosines

CONFIG = VQVAEConfig(
    embedding_dim=10, hidden_dim=12, decoder_hidden_dim=9, partial_hidden_dim=7, ema_decay=0.9
)


def make_model(config=CONFIG, sizes=(6, 3, 1), seed=0):
    order = np.random.default_rng(0).permutation(sum(sizes))
    groups = np.split(order, np.cumsum(sizes)[:-1])
    found = Categories(
        groups=tuple(tuple(int(i) for i in group) for group in groups),
        silhouette=None,
        orthogonality=0.0,
        orthogonality_target=0.25,
    )
    torch.manual_seed(seed)
    return VQVAE(config, plan(config, found, 100)).double()


def features(items, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, 10, generator=generator, dtype=torch.float64)


def written_out(model, x):
    """Each term as its docstring has it, from the model's public methods."""
    latents = model.encode(x)
    quantized = model.quantize(latents)
    z, z_q = torch.cat(latents, 1), torch.cat(quantized.vectors, 1)
    d_x, d_z, d_q = (torch.pdist(v) for v in (x, z, z_q))
    r = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in ((d_x, d_z), (d_z, d_q))]
    partial = model.reconstruct_partially(z_q.T)
    widths = [len(group) for group in model.layout.groups for _ in range(3)]
    cosines, errors = [], []
    for q, decoded in enumerate(partial.split(widths)):
        used = quantized.codes[:, q].unique()
        book = model.bank.codebooks[q, used, : model.latent_dims[q]]
        # Their value, with the gradient of the means of the latents that chose each.
        means = torch.stack([latents[q][quantized.codes[:, q] == code].mean(0) for code in used])
        directions = F.normalize(book + means - means.detach())
        pairs = [
            (directions[i] @ directions[j]).square()
            for i in range(len(used))
            for j in range(len(used))
            if i != j
        ]
        cosines.append(torch.stack(pairs).mean() if pairs else z.new_zeros(()))
        errors.append(F.mse_loss(decoded.T, x[:, list(model.layout.groups[q // 3])]))
    return {
        "reconstruction": F.mse_loss(model.decode([z_q]), x),
        "commitment": F.mse_loss(z, z_q.detach()),
        "orthogonality": torch.stack(cosines).mean(),
        "informativeness": torch.stack(errors).mean(),
        "topography": 0.3 * (1 - r[0]) + 0.7 * (1 - r[1]),
    }


@pytest.mark.parametrize("name", TERMS)
def test_a_term_and_its_gradient_are_those_of_its_formula(name):
    model = make_model(CONFIG.model_copy(update={"dropout": 0.0})).train()
    model.initialise(features(60, seed=1))
    values, gradients = [], []
    for form in (lambda x: TERMS[name](predict(model, x)), lambda x: written_out(model, x)[name]):
        value = form(features(30))
        wanted = list(model.parameters())
        gradients.append(torch.autograd.grad(value, wanted, allow_unused=True))
        values.append(value)
    # 1e-6: orthogonality's guard against codes at the origin; topography's floor.
    torch.testing.assert_close(*values, rtol=3e-6, atol=0)
    for (parameter, _), found, expected in zip(model.named_parameters(), *gradients, strict=True):
        assert (found is None or not found.any()) == (expected is None or not expected.any())
        if expected is not None:
            assert (found - expected).norm() < 1e-5 * expected.norm() + 1e-12, parameter


def test_errors_that_are_known_are_measured():
    model = make_model().eval()
    prediction = predict(model, features(12))
    exact = replace(
        prediction,
        reconstruction=prediction.target,
        partial=prediction.partial_target,
        vector_rows=prediction.latent_rows,
    )
    off = replace(
        prediction,
        reconstruction=prediction.target + 2,
        partial=prediction.partial_target - 2,
        vector_rows=prediction.latent_rows + 2,
    )
    for name in ("reconstruction", "informativeness", "commitment"):
        assert TERMS[name](exact).item() == 0
        assert TERMS[name](off).item() == pytest.approx(4.0)
    copied = F.pad(exact.target.T, (0, 0, 0, model.latent_dim - 10))  # all distances are kept
    same = replace(exact, latent_rows=copied, vector_rows=copied)
    assert TERMS["topography"](same).item() == pytest.approx(0.0, abs=1e-9)


def test_every_codebook_counts_the_same_whatever_its_width():
    model = make_model(sizes=(8, 2)).eval()
    prediction = predict(model, features(12))
    error = torch.zeros_like(prediction.partial)
    error[-2:] = 1.0  # the last codebook's two features
    wrong = replace(prediction, partial=prediction.partial_target + error)
    assert TERMS["informativeness"](wrong).item() == pytest.approx(1 / 6)


def test_only_the_first_topo_samples_are_compared():
    model = make_model().eval()
    x = features(12)
    few = replace(predict(model, x), topo_samples=7)
    assert TERMS["topography"](few).item() == pytest.approx(
        TERMS["topography"](predict(model, x[:7])).item(), abs=1e-9
    )


def test_orthogonality_is_that_of_the_codes_in_use():
    """Two codes at 60 degrees, two that are orthogonal, one that nothing chose."""
    third = 3**0.5 / 2
    codes = torch.tensor([[[1.0, 0.0], [0.5, third]], [[2.0, 0.0], [0.0, 3.0]]])
    used = torch.ones(2, 2, dtype=torch.bool)
    expected = torch.tensor([0.25, 0.0])
    torch.testing.assert_close(codebook_cosines(codes, used), expected, rtol=1e-5, atol=1e-6)
    used[0, 1] = False
    assert (codebook_cosines(codes, used) < 1e-6).all()


@pytest.mark.parametrize("name", TERMS)
def test_the_weights_are_the_configurations(name):
    keys = {
        "commitment": "commitment_cost",
        "orthogonality": "orthogonality_weight",
        "informativeness": "informativeness_weight",
        "topography": "topo_weight",
    }
    if name == "reconstruction":
        assert weights(VQVAEConfig())[name] == 1.0
        return
    found = weights(VQVAEConfig(**{keys[name]: 0.123}))
    assert found[name] == 0.123
    assert found.keys() == TERMS.keys()


def test_orthogonality_pushes_the_used_codes_apart():
    """The gradient descends the cosine of the codes where the moving average takes them."""
    model = make_model()
    x = features(64)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.initialise(x)
    model.eval()
    before = TERMS["orthogonality"](predict(model, x)).item()
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        TERMS["orthogonality"](predict(model, x)).backward()
        optimizer.step()
        model.after_update()
    model.eval()
    assert TERMS["orthogonality"](predict(model, x)).item() < 0.8 * before
