"""The network: shapes of the seeds, parameters that all learn, samples that do not mix."""

import pytest
import torch

from spinlock.noa import UAFNO, LatentProjector, UAFNOConfig, rollout, sampled_steps
from spinlock.noa.afno import SpectralMixing, kept_columns, kept_rows

SMALL = UAFNOConfig(base_channels=4, encoder_levels=2, modes=4, afno_blocks=1, blocks_per_level=1)


def small(channels: int = 1, grid: tuple[int, int] = (16, 16), parameters: int = 3) -> UAFNO:
    torch.manual_seed(0)
    return UAFNO(SMALL, channels=channels, grid=grid, parameters=parameters)


def test_the_seeds_default_has_a_bottleneck_of_256_channels_on_8_by_8() -> None:
    model = UAFNO(UAFNOConfig(), channels=1, grid=(64, 64), parameters=12)
    films = model.condition(torch.zeros(2, 12))
    with torch.no_grad():
        step = model(torch.zeros(2, 1, 64, 64), films)
    assert step.bottleneck.shape == (2, 256, 8, 8)
    assert step.state.shape == (2, 1, 64, 64)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("grid", [(16, 16), (16, 24), (20, 12)])
@pytest.mark.parametrize("parameters", [0, 3])
def test_any_grid_that_divides_and_any_channel_count_work(
    channels: int, grid: tuple[int, int], parameters: int
) -> None:
    model = small(channels, grid, parameters)
    state = torch.randn(2, channels, *grid)
    step = model(state, model.condition(torch.randn(2, parameters)))
    assert step.state.shape == state.shape
    assert step.bottleneck.shape == (2, 16, grid[0] // 4, grid[1] // 4)


def test_a_grid_that_does_not_divide_is_refused_with_the_factor() -> None:
    with pytest.raises(ValueError, match=r"\(18, 16\) does not divide by 2\*\*encoder_levels = 4"):
        small(grid=(18, 16))


def test_every_weight_can_receive_a_gradient() -> None:
    """In the prototype 85 % of the spectral weights had no wavenumber on the grid."""
    model = small()
    with torch.no_grad():  # conditioning starts at zero: its trunk learns from the second step on
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    step = model(torch.randn(2, 1, 16, 16), model.condition(torch.randn(2, 3)))
    step.state.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        if name.endswith("mixing.weight"):
            assert parameter.grad.flatten(2).abs().amax((0, 2)).min() > 0, name


def test_only_wavenumbers_below_modes_are_kept_both_signs_of_the_first_axis() -> None:
    assert kept_rows(8, 16) == list(range(8))
    assert kept_columns(8, 16) == 5
    assert kept_rows(8, 2) == [0, 1, 7]
    assert kept_columns(8, 2) == 2


def test_spectral_mixing_with_identity_weights_is_a_low_pass_filter() -> None:
    mixing = SpectralMixing(1, 8, 8, modes=2)
    with torch.no_grad():
        mixing.weight.copy_(torch.tensor([1.0, 0.0])[:, None, None, None])
    x = torch.arange(8) * (2 * torch.pi / 8)
    low = torch.cos(x)[:, None].expand(8, 8)[None, None]
    high = torch.cos(3 * x)[None, :].expand(8, 8)[None, None]
    torch.testing.assert_close(mixing(low + high + 2), low + 2, atol=1e-6, rtol=0)


def test_spectral_mixing_commutes_with_translation() -> None:
    torch.manual_seed(0)
    mixing = SpectralMixing(3, 8, 8, modes=3)
    x = torch.randn(2, 3, 8, 8)
    moved = mixing(x.roll((3, 2), (-2, -1)))
    torch.testing.assert_close(moved, mixing(x).roll((3, 2), (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(8, 8), (6, 9), (9, 6)])
@pytest.mark.parametrize("modes", [2, 16])
def test_mixing_by_matrices_is_mixing_by_fast_transforms(grid: tuple[int, int], modes: int) -> None:
    torch.manual_seed(0)
    mixing = SpectralMixing(3, *grid, modes)
    x = torch.randn(2, 3, *grid, requires_grad=True)
    found = []
    for mixing.matrices in (True, False):
        mixing.zero_grad()
        x.grad = None
        y = mixing(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        assert x.grad is not None
        assert mixing.weight.grad is not None
        found.append((y.detach(), x.grad, mixing.weight.grad))
    for by_matrices, by_transforms in zip(*found, strict=True):
        torch.testing.assert_close(by_matrices, by_transforms)


def test_a_large_bottleneck_is_transformed_fast_and_holds_no_matrices() -> None:
    mixing = SpectralMixing(2, 32, 16, modes=4)
    assert [name for name, _ in mixing.named_buffers()] == []
    x = torch.randn(2, 2, 32, 16)
    moved = mixing(x.roll((3, 2), (-2, -1)))
    torch.testing.assert_close(moved, mixing(x).roll((3, 2), (-2, -1)), atol=1e-5, rtol=0)


def test_transforms_are_no_part_of_the_weights() -> None:
    assert [*SpectralMixing(2, 8, 8, modes=4).state_dict()] == ["weight"]


def test_conditioning_starts_neutral_and_then_tells_operators_apart() -> None:
    model = small()
    state, theta = torch.randn(1, 1, 16, 16), torch.randn(2, 3)
    first, second = (model(state, model.condition(t[None])).state for t in theta)
    torch.testing.assert_close(first, second)
    with torch.no_grad():
        assert model.film is not None
        model.film.out.weight.normal_()
    first, second = (model(state, model.condition(t[None])).state for t in theta)
    assert (first - second).abs().max() > 1e-3


def test_without_conditioning_the_parameters_have_no_path() -> None:
    config = SMALL.model_copy(update={"condition_on_parameters": False})
    model = UAFNO(config, channels=1, grid=(16, 16), parameters=3)
    assert not [name for name, _ in model.named_parameters() if "film" in name]
    state = torch.randn(1, 1, 16, 16)
    one, other = (model(state, model.condition(torch.full((1, 3), v))).state for v in (0.0, 9.0))
    assert torch.equal(one, other)


def test_a_constant_channel_or_parameter_keeps_scale_one() -> None:
    model = small(channels=2)
    fields = torch.stack([torch.full((4, 16, 16), 3.0), torch.randn(4, 16, 16)], 1)
    model.fit_statistics(fields, torch.tensor([[1.0, 2.0, 5.0], [1.0, 4.0, 5.0]]))
    assert model.mean[0].item() == 3.0
    assert model.scale[0].item() == 1.0
    assert model.parameter_scale.tolist() == [1.0, 1.0, 1.0]


def test_a_rollout_carries_gradient_through_its_window_only() -> None:
    model, initial = small(), torch.randn(2, 1, 16, 16, requires_grad=True)
    rolled = rollout(model, initial, torch.randn(2, 3), timesteps=5, window=2)
    rolled.supervised.sum().backward()
    assert rolled.frames.shape == (2, 6, 1, 16, 16)
    assert initial.grad is not None
    assert not initial.grad.any()  # three warm-up steps lie between


def test_the_window_does_not_change_the_frames() -> None:
    model, initial, theta = small(), torch.randn(2, 1, 16, 16), torch.randn(2, 3)
    whole = rollout(model, initial, theta, timesteps=5, window=5).frames
    part = rollout(model, initial, theta, timesteps=5, window=2).frames
    torch.testing.assert_close(whole, part)


def test_without_gradient_the_frames_are_those_with_it_to_rounding() -> None:
    """There it computes with channels last."""
    model, state, theta = small(), torch.randn(2, 1, 16, 16), torch.randn(2, 3)
    with_gradient = model(state, model.condition(theta)).state
    with torch.no_grad():
        without = model(state, model.condition(theta)).state
    torch.testing.assert_close(without, with_gradient)


def test_taps_are_the_bottlenecks_of_the_sampled_states() -> None:
    model, initial, theta = small(), torch.randn(2, 1, 16, 16), torch.randn(2, 3)
    rolled = rollout(model, initial, theta, timesteps=5, window=4, tapped=sampled_steps(2, 4))
    assert rolled.taps is not None
    films = model.condition(theta)
    for tap, frame in zip(rolled.taps.unbind(1), (1, 4), strict=True):
        expected = model(rolled.frames[:, frame], films).bottleneck.mean((-2, -1))
        torch.testing.assert_close(tap, expected)


@pytest.mark.parametrize(
    ("samples", "window", "steps"),
    [(-1, 3, (0, 1, 2)), (1, 5, (4,)), (2, 5, (0, 4)), (3, 8, (0, 4, 7)), (8, 8, tuple(range(8)))],
)
def test_sampled_steps_are_spread_from_first_to_last(
    samples: int, window: int, steps: tuple[int, ...]
) -> None:
    assert sampled_steps(samples, window) == steps


@pytest.mark.parametrize("samples", [0, 9, -2])
def test_more_samples_than_steps_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match="window of 8"):
        sampled_steps(samples, 8)


def test_a_projection_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    projector, pooled = LatentProjector(16, 5), torch.randn(6, 2, 16)
    torch.testing.assert_close(projector(pooled)[2:3], projector(pooled[2:3]))
