"""Any VQ-VAE with .encode() can stand in for alignment, or is told why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spinlock.errors import ArtifactError
from spinlock.vqvae import VQVAE, Layout, Level, Quantized, VQVAEConfig
from spinlock.vqvae.foreign import load_prototype
from spinlock.vqvae.standin import Decodes, Encodes, Quantizes, StandIn

FEATURES = 7


class Encoder(nn.Module):
    """A user's encoder, without codes: two latents, with what trains otherwise than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 6), nn.Dropout(0.5), nn.BatchNorm1d(6))
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 5)])

    def encode(self, standardized: Tensor) -> list[Tensor]:
        embedding = self.body(standardized).relu()
        return [head(embedding) for head in self.heads]


class Users(Encoder):
    """A user's small VQ-VAE, with parameters of its own kind and straight-through vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.books = nn.ParameterList([torch.randn(4, 3), torch.randn(9, 5)])
        self.decoder = nn.Linear(8, FEATURES)

    def quantize(self, latents: list[Tensor]) -> Quantized:
        codes = [
            torch.cdist(z, book).argmin(1) for z, book in zip(latents, self.books, strict=True)
        ]
        vectors = [book[code] for book, code in zip(self.books, codes, strict=True)]
        through = [z + (v - z).detach() for z, v in zip(latents, vectors, strict=True)]
        return Quantized(through, torch.stack(codes, 1))

    def decode(self, vectors: list[Tensor]) -> Tensor:
        return self.decoder(torch.cat(vectors, 1))


def users(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    return Users(), FEATURES


def encoder(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    return Encoder(), FEATURES


def ours(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    layout = Layout(
        features=FEATURES,
        groups=((0, 2, 4), (1, 3, 5, 6)),
        levels=((Level(num_tokens=4, latent_dim=4), Level(num_tokens=3, latent_dim=8)),) * 2,
    )
    return VQVAE(VQVAEConfig(embedding_dim=8, hidden_dim=8), layout), FEATURES


def prototype(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    real: Path = request.getfixturevalue("real_data")
    return load_prototype(real / "prototype_vqvae" / "best_model.pt").vqvae, 229


@pytest.fixture(params=[ours, prototype, users, encoder])
def given(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    """A VQ-VAE, and how many features it reads."""
    torch.manual_seed(0)
    make: Callable[[pytest.FixtureRequest], tuple[nn.Module, int]] = request.param
    return make(request)


def test_every_vqvae_conforms(given: tuple[nn.Module, int]) -> None:
    vqvae, features = given
    was_training = vqvae.training
    before = {name: value.clone() for name, value in vqvae.state_dict().items()}
    random = torch.get_rng_state()
    stand_in = StandIn(vqvae, features)

    # Asking changes neither the module nor the world.
    assert vqvae.training == was_training
    assert all(torch.equal(before[name], value) for name, value in vqvae.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)

    assert isinstance(vqvae, Encodes)
    latents = vqvae.eval().encode(torch.zeros(2, features))
    assert stand_in.latent_dims == tuple(latent.shape[1] for latent in latents)
    assert stand_in.latent_dim == sum(stand_in.latent_dims)

    # What it gives is the module's own, item by item, with a gradient to the features alone.
    x = torch.randn(6, features, requires_grad=True)
    stand_in.train()
    found = stand_in(x)
    torch.testing.assert_close(found, torch.cat(vqvae.encode(x), 1))
    torch.testing.assert_close(stand_in(x[2:3]), found[2:3], rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any(1).all()
    assert not any(parameter.requires_grad for parameter in stand_in.parameters())

    assert stand_in.quantizes == isinstance(vqvae, Quantizes)
    if isinstance(vqvae, Quantizes):
        quantized = stand_in.quantize(found)
        own = vqvae.quantize(vqvae.encode(x))
        assert torch.equal(quantized.codes, own.codes)
        assert quantized.codes.shape == (6, len(stand_in.latent_dims))
        assert not any(vector.requires_grad for vector in quantized.vectors)
        # A vector is its own nearest code.
        again = stand_in.quantize(torch.cat(quantized.vectors, 1))
        assert torch.equal(again.codes, quantized.codes)
        assert isinstance(vqvae, Decodes)
        assert vqvae.decode(quantized.vectors).shape == (6, features)
    else:
        with pytest.raises(ArtifactError, match=r"Encoder .* no method quantize.*no codes"):
            stand_in.quantize(found)


def test_a_copy_is_asked_and_kept() -> None:
    vqvae = Users()
    stand_in = StandIn(vqvae, FEATURES)
    x = torch.randn(2, FEATURES)
    before = stand_in(x)
    with torch.no_grad():
        vqvae.heads[0].weight.add_(1.0)
    assert torch.equal(stand_in(x), before)
    assert vqvae.heads[0].weight.requires_grad


def test_the_asking_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert StandIn(Users(), FEATURES).latent_dims == (3, 5)


# Refusals


class Scripted(nn.Module):
    """Encodes by a function of what would be right and of what it was given."""

    def __init__(self, encode: Callable[[list[Tensor], Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 4)
        self.function = encode
        self.calls = 0

    def encode(self, standardized: Tensor) -> Any:
        self.calls += 1
        z = self.inner(standardized)
        return self.function([z[:, :3], z[:, 3:]], standardized)


def other_widths_for_one(latents: list[Tensor], x: Tensor) -> list[Tensor]:
    return latents if len(x) > 1 else latents[:1]


def infinite_at_zero(latents: list[Tensor], x: Tensor) -> list[Tensor]:
    return [latents[0] / x.abs().sum(1, keepdim=True), latents[1]]


def root(latents: list[Tensor], x: Tensor) -> list[Tensor]:
    return [latents[0], (x[:, :1] * 0).sqrt()]  # finite, with an infinite slope


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda z, _x: tuple(z), "gives a tuple from encode.*expected a list of latents"),
        (lambda z, _x: torch.cat(z, 1), "gives a Tensor from encode"),
        (lambda z, _x: {"z": z}, "gives a dict from encode"),
        (lambda _z, _x: [], "gives an empty list from encode"),
        (lambda _z, _x: None, "gives a NoneType from encode"),
        (lambda z, _x: [z[0], z[1][..., None]], r"as latent 1 \(3, 1, 1\); expected a tensor"),
        (lambda z, _x: [z[0][:, 0]], r"as latent 0 \(3,\); expected a tensor"),
        (lambda z, _x: [z[0], 1.0], "as latent 1 float; expected a tensor"),
        (lambda z, _x: [z[0], z[1][:1]], "latent 1 for 1 items when it is given 3"),
        (lambda z, _x: [torch.cat([z[0]] * 2)], "latent 0 for 6 items when it is given 3"),
        (other_widths_for_one, r"latents of \(3,\) entries, and before of \(3, 1\)"),
        (lambda z, x: [z[0][:, : 2 + bool(x.any())]], r"of \(3,\) entries, and before of \(2,\)"),
        (infinite_at_zero, "latents that are not finite"),
        (lambda z, _x: [z[0], z[1] * torch.nan], "latents that are not finite"),
        (lambda z, _x: [z[0], z[1].detach()], "no gradient from latent 1 to the features"),
        (lambda z, x: [z[0], torch.ones(len(x), 1)], "no gradient from latent 1 to the feat"),
        (lambda z, _x: [z[0].round(), z[1].sign()], "gradient to the features that is zero"),
        (root, "gradient to the features that is not finite"),
        (lambda z, _x: z[3], "fails on 3 items of 7 features: list index out of range"),
    ],
)
def test_what_alignment_cannot_use_is_refused(
    encode: Callable[[list[Tensor], Tensor], Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=f"Scripted cannot stand in .*: it .*{message}"):
        StandIn(Scripted(encode), FEATURES)


def test_latents_that_change_later_are_refused() -> None:
    changing = Scripted(lambda z, x: z if len(x) < 50 else z[:1])
    stand_in = StandIn(changing, FEATURES)
    with pytest.raises(ArtifactError, match=r"latents of \(3,\) entries, and before of \(3, 1\)"):
        stand_in(torch.randn(50, FEATURES))


def test_a_module_without_encode_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"Linear cannot .* no method encode\(standardized\)"):
        StandIn(nn.Linear(3, 3), 3)


def test_another_number_of_features_is_refused() -> None:
    with pytest.raises(ArtifactError, match="fails on 3 items of 9 features: mat1 and mat2"):
        StandIn(Users(), 9)
    with pytest.raises(ArtifactError, match="reads 7 features, found 9"):
        StandIn(Users(), FEATURES)(torch.zeros(2, 9))


class Codes(Users):
    """Quantizes by a function of what would be right."""

    def __init__(self, change: Callable[[Quantized], Any]) -> None:
        super().__init__()
        self.change = change

    def quantize(self, latents: list[Tensor]) -> Any:
        return self.change(super().quantize(latents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: (q.vectors, q.codes, {}), "gives a tuple from quantize.*expected a Quantized"),
        (lambda q: Quantized(q.vectors[:1], q.codes), "of other shapes than the latents"),
        (lambda q: Quantized(q.vectors, q.codes[:, :1]), r"codes of shape \(3, 1\).*\(3, 2\)"),
        (lambda q: Quantized([v * torch.inf for v in q.vectors], q.codes), "not finite"),
    ],
)
def test_codes_that_alignment_cannot_use_are_refused(
    change: Callable[[Quantized], Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=f"Codes cannot stand in .*: it .*{message}"):
        StandIn(Codes(change), FEATURES)
