"""Features recover what is known exactly of fields made for it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinlock.features import (
    FRAME_NAMES,
    FeatureConfig,
    extract,
    feature_names,
    per_frame,
    spectrum,
)

ALL = FeatureConfig()
NAMES = feature_names(ALL)


def feature(trajectory: Tensor, name: str) -> Tensor:
    return extract(trajectory, ALL)[:, NAMES.index(name)]


def frame_feature(trajectory: Tensor, name: str) -> Tensor:
    return per_frame(trajectory)[:, :, FRAME_NAMES.index(name)]


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(height, dtype=torch.float64)
    x = torch.arange(width, dtype=torch.float64)
    return torch.meshgrid(y, x, indexing="ij")


def wave(kx: int, ky: int, size: int = 64, frames: int = 3, speed: tuple[float, float] = (0, 0)):
    """sin of the given cycles per domain, moving by `speed` (x, y) cells per frame."""
    y, x = grid(size, size)
    t = torch.arange(frames, dtype=torch.float64)[:, None, None]
    phase = kx * (x - speed[0] * t) + ky * (y - speed[1] * t)
    return torch.sin(2 * math.pi * phase / size)[None, :, None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(8, 21), width=st.integers(8, 21), seed=st.integers(0, 99))
def test_parseval(height: int, width: int, seed: int) -> None:
    field = noise(2, height, width, seed=seed) + 3
    modes = spectrum.power(field)
    variance = field.var((-2, -1), correction=0)
    torch.testing.assert_close(modes.sum(-1), variance)
    torch.testing.assert_close(sum(spectrum.band_energies(modes, height, width)), variance)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(8, 21), width=st.integers(8, 21), seed=st.integers(0, 99))
def test_spectral_gradient_energies_equal_those_of_differences(
    height: int, width: int, seed: int
) -> None:
    field = noise(height, width, seed=seed)
    found = spectrum.gradient_energies(spectrum.power(field), height, width)
    forward = [(field.roll(-1, axis) - field).square().mean() for axis in (0, 1)]
    dy, dx = ((field.roll(-1, axis) - field.roll(1, axis)) / 2 for axis in (0, 1))
    expected = [sum(forward), dx.square().mean(), dy.square().mean(), (dx * dy).mean()]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize(("k", "band"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, 3), (15, 3), (16, 4)])
def test_a_sine_puts_its_energy_into_the_band_of_its_wavenumber(
    k: int, band: int, axis: str
) -> None:
    field = wave(k, 0) if axis == "x" else wave(0, k)
    shares = [
        math.exp(frame_feature(field, f"temporal.spectral.band_{index}.mean")[0, 0]) - 1e-4
        for index in range(spectrum.BANDS)
    ]
    assert shares[band] == pytest.approx(1, abs=1e-4)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    centroid = frame_feature(field, "temporal.spectral.log_wavenumber.mean")[0, 0]
    assert centroid.item() == pytest.approx(math.log(k), abs=1e-4)
    for name in ("log_wavenumber_variance", "entropy"):
        spread = frame_feature(field, f"temporal.spectral.{name}.mean")[0, 0]
        assert spread.item() == pytest.approx(0, abs=1e-4), name


def test_white_noise_has_nearly_the_largest_entropy() -> None:
    assert 0.9 < feature(noise(1, 3, 1, 64, 64), "initial.spectral.entropy.mean").item() < 1


@pytest.mark.parametrize(
    ("kx", "ky", "axis", "diagonal"), [(3, 0, 1, 0), (0, 3, -1, 0), (3, 3, 0, 1), (3, -3, 0, -1)]
)
def test_anisotropy_tells_the_direction_of_a_wave(
    kx: int, ky: int, axis: float, diagonal: float
) -> None:
    field = wave(kx, ky)
    found = feature(field, "initial.spatial.anisotropy_axis.mean").item()
    assert found == pytest.approx(axis, abs=1e-3)
    found = feature(field, "initial.spatial.anisotropy_diagonal.mean").item()
    assert found == pytest.approx(diagonal, abs=1e-3)


@pytest.mark.parametrize("speed", [(1.0, 0.0), (-1.0, 0.0), (0.0, 0.7), (0.5, -0.8), (0.0, 0.0)])
def test_the_velocity_of_a_travelling_pattern_is_recovered_with_its_sign(
    speed: tuple[float, float],
) -> None:
    field = wave(2, 0, frames=9, speed=speed) + wave(0, 3, frames=9, speed=speed)
    for axis, expected in zip("xy", speed, strict=True):
        found = math.sinh(feature(field, f"summary.causality.advection_{axis}.mean").item())
        assert found == pytest.approx(expected, abs=0.02)
    share = feature(field, "summary.causality.advection_share.mean").item()
    assert share == pytest.approx(1 if any(speed) else 0, abs=0.05)


def test_a_random_pattern_moved_by_one_cell_per_frame_has_speed_one_along_it() -> None:
    pattern = noise(32, 32)
    field = torch.stack([pattern.roll((t, 0), (1, 0)) for t in range(8)])[None, :, None]
    assert math.sinh(feature(field, "summary.causality.advection_x.mean").item()) > 0.5
    assert abs(feature(field, "summary.causality.advection_y.mean").item()) < 0.1


@pytest.mark.parametrize("rate", [-0.3, -0.05, 0.05, 0.3])
def test_the_rate_of_exponential_growth_is_recovered(rate: float) -> None:
    frames = 9
    t = torch.arange(frames, dtype=torch.float64)[:, None, None, None]
    field = wave(2, 3, frames=frames) * torch.exp(rate * t)
    # log energy grows by 2 * rate per frame, and a trend is half the change over the window
    for name in ("log_variance", "log_energy"):
        found = feature(field, f"summary.drift.{name}.trend.mean").item() / (frames - 1)
        assert found == pytest.approx(rate, rel=1e-3), name
        assert feature(field, f"summary.drift.{name}.wander.mean").item() < 2e-3
    found = feature(field, "summary.dynamics.log_rate_trend.mean").item() / (frames - 2)
    assert found == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("period", [4, 8, 16])
def test_the_frequency_of_an_oscillation_is_recovered(period: int) -> None:
    t = torch.arange(64, dtype=torch.float64)[:, None, None, None]
    field = wave(2, 1, frames=64) * torch.cos(2 * math.pi * t / period)
    ratio = math.exp(feature(field, "summary.dynamics.log_frequency.mean").item())
    assert math.asin(math.sqrt(ratio) / 2) / math.pi == pytest.approx(1 / period, rel=0.05)
    assert abs(feature(field, "summary.dynamics.log_bandwidth.mean").item()) < 0.1
    assert feature(field + noise(1, 64, 1, 64, 64), "summary.dynamics.log_bandwidth.mean") > 0.1


def test_a_frozen_pattern_has_no_temporal_share() -> None:
    frozen = noise(1, 1, 1, 16, 16).expand(1, 8, 1, 16, 16)
    assert feature(frozen, "summary.dynamics.log_temporal_share.mean").item() < -13
    lively = noise(1, 64, 1, 16, 16)
    share = feature(lively, "summary.dynamics.log_temporal_share.mean").item()
    assert share == pytest.approx(0, abs=0.05)


def test_irreversibility_changes_sign_when_time_runs_backwards() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.rand(1, 40, 1, 16, 16, dtype=torch.float64, generator=generator) ** 4
    sawtooth = (steps.cumsum(1) - 0.2 * torch.arange(40)[:, None, None, None]).detach()
    name = "summary.causality.irreversibility.mean"
    forward, backward = feature(sawtooth, name), feature(sawtooth.flip(1), name)
    assert forward > 0.1
    torch.testing.assert_close(forward, -backward)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_cross_channel_features_equal_their_definitions(channels: int) -> None:
    field = noise(2, 3, channels, 12, 12)
    field[:, :, 1] += 0.8 * field[:, :, 0]
    flat = field[:, 0].flatten(-2)
    pairs = [(i, j) for i in range(channels) for j in range(i)]
    r = torch.stack([torch.corrcoef(sample)[tuple(zip(*pairs, strict=True))] for sample in flat])
    torch.testing.assert_close(
        feature(field, "initial.cross_channel.correlation"), r.mean(1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        feature(field, "initial.cross_channel.absolute_correlation"),
        r.abs().mean(1),
        rtol=1e-3,
        atol=1e-3,
    )
    scaled = (flat - flat.mean(-1, keepdim=True)) / flat.std(-1, correction=0, keepdim=True)
    s = scaled @ scaled.mT / 144
    expected = s.diagonal(dim1=1, dim2=2).sum(1) ** 2 / s.square().sum((1, 2)) / channels
    torch.testing.assert_close(
        feature(field, "initial.cross_channel.participation"), expected, rtol=1e-4, atol=1e-5
    )


def test_influence_is_found_where_one_channel_drives_another() -> None:
    name = "summary.causality.influence.max"
    driver = noise(1, 12, 1, 16, 16)
    driven = torch.zeros_like(driver)
    for t in range(11):
        driven[:, t + 1] = 0.5 * driven[:, t] + driver[:, t]
    coupled = feature(torch.cat((driver, driven), 2), name).item()
    apart = feature(torch.cat((driver, noise(1, 12, 1, 16, 16, seed=1)), 2), name).item()
    assert coupled > 2
    assert abs(apart) < 0.02


def test_the_order_of_channels_does_not_matter() -> None:
    field = noise(1, 5, 4, 12, 12).cumsum(2).cumsum(1)
    shuffled = field[:, :, [2, 0, 3, 1]]
    torch.testing.assert_close(extract(shuffled, ALL), extract(field, ALL))


def test_one_channel_has_a_cross_channel_block_of_zeros() -> None:
    features = extract(noise(2, 4, 1, 12, 12), ALL)
    words = ("cross_channel", "influence")
    block = [i for i, name in enumerate(NAMES) if any(word in name for word in words)]
    assert len(block) == 11
    assert features[:, block].abs().max() == 0


@settings(max_examples=15, deadline=None)
@given(dx=st.integers(-20, 20), dy=st.integers(-20, 20))
def test_features_do_not_change_when_a_periodic_field_is_moved(dx: int, dy: int) -> None:
    field = noise(1, 5, 2, 11, 16).cumsum(1)
    moved = field.roll((dy, dx), (-2, -1))
    torch.testing.assert_close(extract(moved, ALL), extract(field, ALL))


def test_turning_a_field_swaps_only_what_has_a_direction() -> None:
    field = noise(1, 5, 2, 12, 12).cumsum(1)
    before, after = extract(field, ALL), extract(field.transpose(-1, -2), ALL)
    directed = ("anisotropy_axis", "advection_x", "advection_y")
    same = [i for i, name in enumerate(NAMES) if not any(word in name for word in directed)]
    torch.testing.assert_close(after[:, same], before[:, same])
    x, y = (NAMES.index(f"summary.causality.advection_{axis}.mean") for axis in "xy")
    torch.testing.assert_close(after[:, x], before[:, y])


@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-10, 60), channels=st.integers(1, 3))
def test_features_are_exactly_invariant_under_the_fields_units(
    exponent: int, channels: int
) -> None:
    field = noise(2, 5, channels, 9, 12).float() + 0.5
    before, after = extract(field, ALL), extract(field * 2.0**exponent, ALL)
    scale = torch.tensor(["log_scale" in name for name in NAMES])
    assert torch.equal(after[:, ~scale], before[:, ~scale])
    torch.testing.assert_close(
        after[:, scale], before[:, scale] + exponent * math.log(2), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("factor", [-1.0, 0.037, 91.3])
def test_scale_features_are_the_logarithm_and_the_offset_of_the_field(factor: float) -> None:
    field = factor * (noise(1, 4, 1, 16, 16) + 2)
    std, mean = field.std(correction=0).item(), field.mean().item()
    assert feature(field, "summary.scale.log_scale.mean").item() == pytest.approx(math.log(std))
    offset = math.sinh(feature(field, "summary.scale.offset.mean").item())
    assert offset == pytest.approx(mean / std)


@pytest.mark.parametrize(("part", "name"), [(16, "sixteenth"), (8, "eighth"), (4, "quarter")])
def test_initial_autocorrelation_is_that_of_shifted_copies(part: int, name: str) -> None:
    field = noise(1, 3, 1, 32, 32)
    d = field[0, 0, 0] - field[0, 0, 0].mean()
    shifted = [(d * d.roll(32 // part, axis)).mean() / d.square().mean() for axis in (0, 1)]
    found = feature(field, f"initial.spatial.autocorrelation_{name}.mean").item()
    assert found == pytest.approx(sum(shifted).item() / 2, abs=1e-5)


def test_a_field_that_becomes_homogeneous_says_so() -> None:
    field = 1 + 0.1 * noise(1, 8, 1, 16, 16)
    field[:, 4:] = 1.0
    series = frame_feature(field, "temporal.spatial.log_variance.mean")[0]
    assert (series[:4] > -1).all()
    assert (series[4:] < -8).all()
    assert feature(field, "summary.drift.log_variance.trend.mean") < -4
