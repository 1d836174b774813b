"""The standardizer chooses columns for stated reasons, and is fixed once it is fitted."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinlock.errors import DatasetError
from spinlock.features import CleaningConfig, Standardizer, StandardizerConfig

CLEANING = CleaningConfig()


def _samples(count: int = 200, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) * torch.tensor([1, 5, 1, 1, 1, 9.0]) + 2


NAMES = ("a", "b", "c", "d", "e", "f")


def _flawed() -> Tensor:
    samples = _samples()
    samples[:, 2] = 7.0
    samples[:, 3] = 3 - 2 * samples[:, 1]
    samples[17, 4] = torch.nan
    return samples


def test_what_is_dropped_is_listed_with_its_reason() -> None:
    standardizer = Standardizer.fit(_flawed(), NAMES, CLEANING)
    assert standardizer.names == ("a", "b", "f")
    assert {drop.name: drop.reason for drop in standardizer.report} == {
        "c": "is constant at 7",
        "d": "repeats b (r = -1.0000)",
        "e": "is not finite in 1 of 200 samples, first in 17",
    }
    assert standardizer(_flawed()).shape == (200, 3)


def test_of_a_pair_that_repeats_the_earlier_is_kept() -> None:
    samples = _samples()
    samples[:, 0] = samples[:, 5]
    assert Standardizer.fit(samples, NAMES, CLEANING).names == ("a", "b", "c", "d", "e")


def test_the_samples_it_was_fitted_on_come_out_centred_with_spread_one() -> None:
    out = Standardizer.fit(_flawed(), NAMES, CLEANING)(_flawed())
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_ordinary_values_are_only_shifted_and_scaled() -> None:
    samples = _samples()
    standardizer = Standardizer.fit(samples, NAMES, CLEANING)
    expected = (samples - samples.mean(0)) / samples.std(0, correction=0)
    torch.testing.assert_close(standardizer(samples), expected, atol=1e-5, rtol=1e-5)


def test_one_outlier_does_not_flatten_the_others() -> None:
    samples = _samples()
    samples[3, 0] = 1e12
    out = Standardizer.fit(samples, NAMES, CLEANING)(samples)
    assert out.isfinite().all()
    assert out[:, 0].abs().max() < 200


@settings(max_examples=50, deadline=None)
@given(value=st.floats(-(2.0**100), 2.0**100, width=32))
def test_tails_are_monotone_and_never_lose_their_gradient(value: float) -> None:
    standardizer = Standardizer.fit(_samples(), NAMES, CLEANING)
    raw = torch.full((1, 6), value, requires_grad=True)
    out = standardizer(raw)
    out.sum().backward()
    assert raw.grad is not None
    assert out.isfinite().all()
    assert raw.grad.isfinite().all()
    assert (raw.grad > 0).all()
    farther = standardizer(torch.full((1, 6), value * 2))
    assert ((farther - out) * value >= 0).all()


def test_the_squeezed_tail_joins_without_a_kink() -> None:
    standardizer = Standardizer.fit(_samples().double(), NAMES, CLEANING).double()
    for edge, sign in ((standardizer.high, 1), (standardizer.low, -1)):
        inside = (edge - sign * 1e-4)[None].requires_grad_()
        beyond = (edge + sign * 1e-4)[None].requires_grad_()
        slopes = [torch.autograd.grad(standardizer(x).sum(), x)[0] for x in (inside, beyond)]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=0)


def test_a_sample_comes_out_the_same_alone_and_in_a_batch() -> None:
    samples = _samples()
    standardizer = Standardizer.fit(samples, NAMES, CLEANING)
    together = standardizer(samples)
    assert all(
        torch.equal(standardizer(samples[i : i + 1])[0], together[i]) for i in range(0, 200, 9)
    )


def test_it_is_rebuilt_from_its_config_as_json_and_its_state() -> None:
    fitted = Standardizer.fit(_flawed(), NAMES, CLEANING)
    text = json.dumps(fitted.config.model_dump(mode="json"))
    rebuilt = Standardizer(StandardizerConfig.model_validate(json.loads(text)))
    assert rebuilt(_samples()).isnan().all()  # never plausible before it has its state
    rebuilt.load_state_dict(fitted.state_dict())
    assert torch.equal(rebuilt(_samples()), fitted(_samples()))
    assert rebuilt.names == fitted.names
    assert rebuilt.report == fitted.report


def test_fitting_twice_gives_the_same_state() -> None:
    first, second = (Standardizer.fit(_flawed(), NAMES, CLEANING) for _ in range(2))
    assert first.config == second.config
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_it_has_no_parameters_and_does_not_change_in_use() -> None:
    standardizer = Standardizer.fit(_samples(), NAMES, CLEANING).train()
    before = {name: value.clone() for name, value in standardizer.state_dict().items()}
    standardizer(_samples(seed=1) * 100)
    assert list(standardizer.parameters()) == []
    assert all(
        torch.equal(standardizer.state_dict()[name], value) for name, value in before.items()
    )


def test_one_sample_is_refused() -> None:
    with pytest.raises(DatasetError, match="at least 2 samples; found 1"):
        Standardizer.fit(_samples(1), NAMES, CLEANING)


def test_features_that_never_vary_are_refused() -> None:
    with pytest.raises(
        DatasetError, match=r"None of the 6 features varies .* 'a' is constant at 4"
    ):
        Standardizer.fit(torch.full((9, 6), 4.0), NAMES, CLEANING)


def test_another_width_than_it_was_fitted_on_is_our_mistake() -> None:
    standardizer = Standardizer.fit(_samples(), NAMES, CLEANING)
    with pytest.raises(ValueError, match="fitted on 6 columns of features, given 5"):
        standardizer(torch.zeros(3, 5))
