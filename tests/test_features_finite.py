"""Every value and gradient of every feature is finite, whatever finite trajectory it is given."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinlock.errors import ConfigError
from spinlock.features import FAMILIES, FeatureConfig, extract, feature_names, per_frame

ALL = FeatureConfig()


def _noise(channels: int, frames: int = 5, height: int = 9, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, frames, channels, height, width, generator=generator)


def _checkerboard(noise: Tensor) -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(n) for n in noise.shape[-2:]), indexing="ij")
    return (((x + y) % 2) * 2.0 - 1).expand_as(noise).clone()


def _spike(noise: Tensor) -> Tensor:
    field = torch.zeros_like(noise)
    field[:, 2, :, 3, 4] = 1e4
    return field


def _extinct(noise: Tensor) -> Tensor:
    """As Gray-Scott outside its patterns: structure, then exactly the homogeneous state."""
    field = 1 + 0.1 * noise
    field[:, noise.shape[1] // 2 :] = 1.0
    return field


def _runaway(noise: Tensor) -> Tensor:
    growth = 10.0 ** torch.linspace(0, 12, noise.shape[1])
    return noise * growth[:, None, None, None]


HARD = {
    "constant": lambda noise: torch.full_like(noise, 0.3),
    "zero": torch.zeros_like,
    "huge": lambda noise: noise * 1e15,
    "huge constant": lambda noise: torch.full_like(noise, 1e15),
    "near the largest float32": lambda noise: noise * 1e37,
    "tiny": lambda noise: noise * 1e-20,
    "denormal": lambda noise: noise * 1e-42,
    "on an offset of 1e6": lambda noise: noise + 1e6,
    "constant 1e6": lambda noise: torch.full_like(noise, 1e6),
    "spike": _spike,
    "checkerboard": _checkerboard,
    "frozen in time": lambda noise: noise[:, :1].expand_as(noise).clone(),
    "equal channels": lambda noise: noise[:, :, :1].expand_as(noise).clone(),
    "one zero channel": lambda noise: torch.cat((torch.zeros_like(noise[:, :, :1]), noise), 2),
    "opposite channels": lambda noise: torch.cat((noise, -noise), 2),
    "extinct": _extinct,
    "runaway": _runaway,
    "single item": lambda noise: noise[:1],
    "three frames": lambda noise: noise[:, :3],
}


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", HARD)
def test_values_and_gradients_are_finite(name: str, channels: int) -> None:
    trajectory = HARD[name](_noise(channels)).requires_grad_()
    features = extract(trajectory, ALL)
    bad = ~features.isfinite().all(0)
    assert not bad.any(), [feature_names(ALL)[i] for i in bad.nonzero().flatten()]
    # Each feature on its own: in a sum, infinities of two could hide one another.
    for column in range(0, features.shape[1], 7):
        (gradient,) = torch.autograd.grad(features[:, column].sum(), trajectory, retain_graph=True)
        assert gradient.isfinite().all(), feature_names(ALL)[column]
    (gradient,) = torch.autograd.grad(features.sum(), trajectory)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["constant", "zero", "frozen in time", "extinct"])
def test_every_features_gradient_is_finite_on_degenerate_fields(name: str) -> None:
    trajectory = HARD[name](_noise(2, frames=4, height=8, width=8)).requires_grad_()
    features = extract(trajectory, ALL)
    for column, feature in enumerate(feature_names(ALL)):
        (gradient,) = torch.autograd.grad(features[:, column].sum(), trajectory, retain_graph=True)
        assert gradient.isfinite().all(), feature


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(3, 9),
    channels=st.integers(1, 5),
    height=st.integers(8, 15),
    width=st.integers(8, 15),
    exponent=st.integers(-30, 30),
)
def test_the_width_is_the_same_for_every_shape(
    batch: int, frames: int, channels: int, height: int, width: int, exponent: int
) -> None:
    generator = torch.Generator().manual_seed(exponent + 30)
    shape = (batch, frames, channels, height, width)
    features = extract(torch.randn(shape, generator=generator) * 10.0**exponent, ALL)
    assert features.shape == (batch, len(feature_names(ALL)))
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_gradients_equal_finite_differences(channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    trajectory = torch.randn(1, 4, channels, 8, 9, dtype=torch.float64, generator=generator)
    direction = torch.randn(183, dtype=torch.float64, generator=generator)

    def projected(x: Tensor) -> Tensor:
        return (extract(x, ALL) * direction).sum()

    assert torch.autograd.gradcheck(projected, trajectory.requires_grad_(), fast_mode=True)
    if channels == 1:  # every column by itself
        small = trajectory.detach()[:, :3, :, :8, :8].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: extract(x, ALL), small, fast_mode=True)


def test_every_feature_can_be_learned_from() -> None:
    trajectory = _noise(3).requires_grad_()
    features = extract(trajectory, ALL)
    for column, name in enumerate(feature_names(ALL)):
        (gradient,) = torch.autograd.grad(features[:, column].sum(), trajectory, retain_graph=True)
        assert gradient.abs().max() > 0, name


def test_names_are_unique_and_begin_with_their_family() -> None:
    names = feature_names(ALL)
    assert len(set(names)) == len(names)
    for family, made in FAMILIES.items():
        assert all(name.split(".")[0] == family for name in made.names)
        assert made.extract(_noise(2)).shape == (2, len(made.names))


def test_families_extracted_together_equal_each_alone() -> None:
    trajectory = _noise(2)
    config = FeatureConfig(families=("temporal", "initial", "summary"))
    alone = [FAMILIES[name].extract(trajectory) for name in config.families]
    assert torch.equal(extract(trajectory, config), torch.cat(alone, -1))


def test_a_family_may_stand_only_once() -> None:
    with pytest.raises(ValueError, match="only once"):
        FeatureConfig(families=("initial", "initial"))


def test_too_few_frames_are_refused_with_the_familys_name() -> None:
    short = _noise(1, frames=2)
    with pytest.raises(ConfigError, match=r"'summary' needs at least 3 frames; .* has 2"):
        extract(short, ALL)
    assert extract(short[:, :1], FeatureConfig(families=("initial", "temporal"))).isfinite().all()


def test_a_grid_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8 x 8 cells; this trajectory has 7 x 12"):
        extract(_noise(1, height=7), ALL)


def test_a_trajectory_that_is_not_finite_does_not_look_finite() -> None:
    trajectory = _noise(2)
    trajectory[0, 1, 0, 2, 3] = torch.nan
    trajectory[1, 1, 0, 2, 3] = torch.inf
    assert extract(trajectory, ALL).isnan().any(1).all()


def test_half_precision_is_computed_in_single() -> None:
    half = _noise(2).half()
    assert torch.equal(extract(half, ALL), extract(half.float(), ALL))
    assert per_frame(half).dtype == torch.float32
