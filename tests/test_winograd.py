"""Convolutions by Winograd's algorithm are convolutions."""

import pytest
import torch
from torch.nn.functional import conv2d

from spinlock.noa import UAFNO, UAFNOConfig, rollout, winograd


@pytest.fixture(autouse=True)
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine as on one where the algorithm helps."""
    monkeypatch.setattr(winograd, "HELPS", True)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.detach() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "height", "width"),
    [(1, 32, 32, 4, 4), (3, 32, 48, 8, 12), (5, 40, 32, 32, 64), (2, 33, 35, 64, 96)],
)
def test_it_is_the_direct_convolution_forward_and_backward(
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, inputs, height, width).contiguous(memory_format=memory_format)
    weight = torch.randn(outputs, inputs, 3, 3)
    assert winograd.applies(x, weight)
    x.requires_grad_()
    weight.requires_grad_()
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    y = winograd.convolve(x, weight)
    exact = conv2d(exact_x, exact_weight, padding=1)
    slope = torch.randn_like(y)
    (y * slope).sum().backward()
    (exact * slope).sum().backward()
    assert relative(y, exact) < 1e-5
    for found, expected in ((x.grad, exact_x.grad), (weight.grad, exact_weight.grad)):
        assert found is not None
        assert expected is not None
        assert relative(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        ((1, 32, 8, 10), (32, 32, 3, 3)),
        ((1, 16, 8, 8), (32, 16, 3, 3)),
        ((1, 32, 8, 8), (16, 32, 3, 3)),
    ],
)
def test_it_does_not_apply_to_grids_without_whole_tiles_or_to_few_channels(
    x: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    assert not winograd.applies(torch.zeros(x), torch.zeros(weight))


def test_it_does_not_apply_to_double_precision() -> None:
    shapes = (1, 32, 8, 8), (32, 32, 3, 3)
    assert not winograd.applies(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def test_it_does_not_apply_where_direct_convolutions_are_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = (1, 32, 8, 8), (32, 32, 3, 3)
    assert winograd.applies(*map(torch.zeros, shapes))
    monkeypatch.setattr(winograd, "HELPS", False)
    assert not winograd.applies(*map(torch.zeros, shapes))


def test_on_a_large_grid_it_applies_only_where_a_backward_may_follow() -> None:
    large, small, weight = (torch.zeros(1, 32, n, n) for n in (64, 32, 3))
    weight = weight.expand(32, 32, 3, 3)
    assert winograd.applies(large, weight)
    with torch.no_grad():
        assert winograd.applies(small, weight)
        assert not winograd.applies(large, weight)


def test_a_network_with_it_is_the_network_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = UAFNOConfig(base_channels=32, encoder_levels=2, afno_blocks=1, blocks_per_level=1)
    model = UAFNO(config, channels=1, grid=(16, 16), parameters=3)
    initial, theta = torch.randn(2, 1, 16, 16), torch.randn(2, 3)
    found = []
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(winograd, "applies", lambda *_: False)
        model.zero_grad()
        frames = rollout(model, initial, theta, timesteps=3, window=3).frames
        frames.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((frames.detach(), gradient))
    (frames, gradient), (direct_frames, direct_gradient) = found
    torch.testing.assert_close(frames, direct_frames, atol=1e-5, rtol=1e-5)
    assert 0 < relative(gradient, direct_gradient) < 1e-4
