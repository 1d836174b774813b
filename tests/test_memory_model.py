"""What the memory model promises, whatever it is fitted to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinlock.search.memory_model import QUANTILE, MemoryModel, Peak
from spinlock.training.footprint import Footprint

BYTES = st.floats(1e5, 1e10)


def footprint(window: float, weights: float = 1e8, samples: int = 16) -> Footprint:
    return Footprint({"process": 2.0**30, "weights": weights}, {"window": window}, samples)


footprints = st.builds(footprint, BYTES, BYTES, st.integers(1, 64))
peaks = st.lists(st.builds(Peak, footprints, st.integers(1, 64), BYTES), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(peaks, footprints)
def test_a_larger_micro_batch_is_never_predicted_to_take_less(
    measured: list[Peak], wanted: Footprint
) -> None:
    model = MemoryModel.fit(measured)
    predicted = [model.predict(wanted, size) for size in range(1, 65)]
    assert predicted == sorted(predicted)
    assert predicted[0] >= 0


@settings(max_examples=60, deadline=None)
@given(peaks, footprints, st.integers(1, 64), st.floats(1e6, 1e11))
def test_the_largest_micro_batch_fits_with_its_margin_and_makes_as_few_parts_as_any_that_fits(
    measured: list[Peak], wanted: Footprint, most: int, limit: float
) -> None:
    model = MemoryModel.fit(measured)

    def fits(size: int) -> bool:
        return model.predict(wanted, size) * (1 + model.margin) <= limit * (1 + 1e-9)

    found = model.largest(wanted, most=most, limit=limit)
    assert 0 <= found <= most
    if found == 0:
        assert model.predict(wanted, 1) * (1 + model.margin) >= limit * (1 - 1e-9)
        return
    assert fits(found)
    parts = -(-most // found)
    if parts > 1:
        larger = -(-most // (parts - 1))
        assert model.predict(wanted, larger) * (1 + model.margin) >= limit * (1 - 1e-9)


def test_what_is_linear_is_foretold_where_nothing_was_measured() -> None:
    def real(window: float, weights: float, size: int) -> float:
        return 4e8 + 3.5 * weights + 1.1 * window * size

    seen = [
        Peak(footprint(window, weights), size, real(window, weights, size))
        for window, weights, size in ((1e7, 1e7, 1), (4e7, 1e7, 4), (1e7, 8e7, 8), (2e8, 4e8, 2))
    ]
    model = MemoryModel.fit(seen)
    for window, weights, size in ((3e8, 2e7, 16), (5e6, 1e9, 1)):
        found = model.predict(footprint(window, weights), size)
        assert found == pytest.approx(real(window, weights, size), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.8, 1.25), min_size=20, max_size=60))
def test_a_plan_reckons_with_as_much_as_all_but_the_largest_peaks_took(
    noise: list[float],
) -> None:
    seen = [
        Peak(footprint(1e8), 1 + index % 8, factor * (5e8 + 1e8 * (1 + index % 8)))
        for index, factor in enumerate(noise)
    ]
    model = MemoryModel.fit(seen)
    covered = sum(
        each.peak <= model.predict(each.footprint, each.micro_batch) * (1 + model.margin) * 1.0001
        for each in seen
    )
    assert covered >= int(QUANTILE * len(seen))


def test_without_a_peak_there_is_no_model() -> None:
    with pytest.raises(ValueError, match="there are none"):
        MemoryModel.fit([])
