"""Initial fields do what their families' names say."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from spinlock.domains.initial_conditions import (
    FAMILIES,
    AnyInitial,
    Composite,
    GaussianRandomField,
    InitialFamily,
    Localized,
    Multiscale,
    PowerLaw,
    Structured,
    draw,
)
from spinlock.domains.random_fields import correlation_matrix

GRID = 64


def many(family: InitialFamily, count: int = 100, grid: int = GRID) -> np.ndarray:
    """`count` one-channel fields `[count, grid, grid]`."""
    return np.stack([draw([family], seed, 1, grid)[0] for seed in range(count)]).astype(np.float64)


def correlation_at(fields: np.ndarray, lag: int) -> float:
    """Correlation over the ensemble between cells `lag` apart along either axis."""
    shifted = [np.roll(fields, lag, axis) for axis in (1, 2)]
    return float(np.mean([(fields * s).mean() for s in shifted]) / (fields**2).mean())


def power_by_wavenumber(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|k| of every mode, and the ensemble's mean power in it."""
    k = np.fft.fftfreq(fields.shape[-1], 1 / fields.shape[-1])
    return np.hypot(k[:, None], k[None]), (np.abs(np.fft.fft2(fields)) ** 2).mean(0)


def mean_wavenumber(fields: np.ndarray) -> float:
    k, power = power_by_wavenumber(fields)
    return float((k * power).sum() / power.sum())


@pytest.mark.parametrize("kind", sorted(FAMILIES))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grid", [16, 21])
def test_every_family_gives_a_field_that_is_a_function_of_its_seed(kind, channels, grid):
    family = FAMILIES[kind]()
    first, again, other = (draw([family], seed, channels, grid) for seed in (1, 1, 2))
    assert first.shape == (channels, grid, grid)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.std() > 0
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family_is_chosen_by_its_kind_and_refuses_unknown_keys(kind):
    adapter: TypeAdapter[InitialFamily] = TypeAdapter(AnyInitial)
    assert adapter.validate_python({"kind": kind}) == FAMILIES[kind]()
    with pytest.raises(ValidationError, match="length_scales_"):
        adapter.validate_python({"kind": kind, "length_scales_": 1})


@pytest.mark.parametrize(
    "family",
    [
        GaussianRandomField(length_scale=0.02, variance=4.0),
        GaussianRandomField(length_scale=0.1, variance=0.25),
        Multiscale(length_scales=(0.02, 0.1), shares=(1.0, 3.0), variance=2.0),
        PowerLaw(exponent=2.0, variance=3.0),
        Composite(variance=2.0, disorder=0.5),
    ],
    ids=repr,
)
def test_the_variance_of_a_field_is_the_one_asked_for(family):
    assert (many(family, 400, 32) ** 2).mean() == pytest.approx(family.variance, rel=0.1)


@pytest.mark.parametrize("cells", [2, 4, 8])
def test_a_gaussian_field_has_the_correlation_length_asked_for(cells):
    fields = many(GaussianRandomField(length_scale=cells / GRID), 200)
    for lag in (cells, 2 * cells):
        expected = np.exp(-((lag / cells) ** 2) / 2)
        assert correlation_at(fields, lag) == pytest.approx(expected, abs=0.04)


def test_the_length_scale_is_a_fraction_of_the_domain_on_any_grid():
    coarse = many(GaussianRandomField(length_scale=0.1), 100, 32)
    fine = many(GaussianRandomField(length_scale=0.1), 100, 64)
    assert mean_wavenumber(coarse) == pytest.approx(mean_wavenumber(fine), rel=0.05)


def test_a_longer_length_scale_means_lower_wavenumbers():
    lengths = (0.01, 0.03, 0.05, 0.1, 0.2)
    found = [mean_wavenumber(many(GaussianRandomField(length_scale=at), 20)) for at in lengths]
    assert found == sorted(found, reverse=True)
    assert found[0] > 5 * found[-1]


def test_a_multiscale_field_correlates_as_the_mixture_of_its_scales():
    family = Multiscale(length_scales=(2 / GRID, 8 / GRID), shares=(1.0, 3.0))
    for lag in (2, 4, 8):
        expected = (np.exp(-((lag / 2) ** 2) / 2) + 3 * np.exp(-((lag / 8) ** 2) / 2)) / 4
        assert correlation_at(many(family, 200), lag) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 2.0, 4.0])
def test_the_power_of_a_power_law_falls_with_the_exponent_asked_for(exponent):
    fields = many(PowerLaw(exponent=exponent), 100)
    k, power = power_by_wavenumber(fields)
    inside = (k >= 1) & (k < GRID / 2)
    slope = np.polyfit(np.log(k[inside]), np.log(power[inside]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)
    np.testing.assert_allclose(fields.mean((1, 2)), 0, atol=1e-6)


def test_circles_are_flat_inside_sharp_edges():
    for field in many(Structured(structures=3, shapes=("circle",)), 20):
        assert len(np.unique(field.round(5))) <= 2**3


def test_stripes_have_one_wave_vector():
    for field in many(Structured(structures=1, shapes=("stripe",)), 20):
        power = np.sort((np.abs(np.fft.fft2(field)) ** 2).ravel())
        assert power[-2:].sum() / power.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("width", [0.03, 0.06, 0.1])
def test_a_localized_bump_has_the_width_asked_for_wherever_it_lies(width):
    axis = np.fft.fftfreq(GRID)  # offsets from the peak, as fractions of the domain
    squares = axis[:, None] ** 2 + axis[None] ** 2
    for field in many(Localized(blobs=1, widths=(width, width)), 10):
        peak = np.unravel_index(np.abs(field).argmax(), field.shape)
        bump = np.abs(np.roll(field, (-peak[0], -peak[1]), (0, 1)))
        variance = (bump * squares).sum() / bump.sum() / 2
        assert np.sqrt(variance) == pytest.approx(width, rel=0.05)


@pytest.mark.parametrize("pattern", ["waves", "lattice"])
def test_a_composite_without_disorder_is_its_pattern_alone(pattern):
    family = Composite(patterns=(pattern,), cycles=(3, 3), disorder=0.0)
    for field in many(family, 10):
        assert field.var() == pytest.approx(1, abs=1e-5)
        k, power = power_by_wavenumber(field[None])
        on_pattern = np.isclose(k, 3) | np.isclose(k, 3 * np.sqrt(2))
        assert power[on_pattern].sum() / power.sum() == pytest.approx(1, abs=1e-6)


def test_rings_have_their_wavenumber_in_every_direction():
    fields = many(Composite(patterns=("rings",), cycles=(6, 6), disorder=0.0), 10)
    k, power = power_by_wavenumber(fields)
    ring = np.abs(k - 6) <= 1.5
    assert power[ring].sum() / power.sum() > 0.8
    along_y, along_x = (ring & (np.abs(angle) < 2) for angle in np.meshgrid(*2 * [k[0]]))
    assert power[along_y].sum() == pytest.approx(power[along_x].sum(), rel=0.05)


def test_a_mixture_draws_its_families_by_weight():
    flat = Structured(structures=1, shapes=("circle",), weight=3.0)
    rough = GaussianRandomField(length_scale=0.02, weight=1.0)
    fields = [draw([flat, rough], seed, 1, 16) for seed in range(400)]
    share = np.mean([len(np.unique(field)) <= 2 for field in fields])
    assert share == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("length", [0.0, 0.05, 0.2])
def test_a_correlation_matrix_keeps_unit_variance_and_correlates_as_asked(length):
    matrix = correlation_matrix(40, length).astype(np.float64)
    covariance = matrix @ matrix.T
    np.testing.assert_allclose(np.diag(covariance), 1, atol=1e-6)
    lags = np.arange(-80, 121, 40)[:, None] + np.arange(20)  # the images on either side
    images = np.exp(-((lags / 40) ** 2) / (2 * length**2)) if length else (lags == 0)
    expected = images.sum(0) / images.sum(0)[0]
    np.testing.assert_allclose(covariance[0, :20], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Localized(widths=(0.2, 0.1)), "widths are \\[low, high\\]"),
        (lambda: Multiscale(shares=(1.0,)), "3 length scales, 1 shares"),
        (lambda: Composite(cycles=(4, 2)), "cycles are \\[low, high\\]"),
        (lambda: GaussianRandomField(length_scale=0.0), "greater than 0"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused(build, words):
    with pytest.raises(ValidationError, match=words):
        build()
