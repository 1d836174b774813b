"""The topographic correlation: Pearson's r of distances, its gradient, and its memory."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from torch.profiler import profile

from spinlock.vqvae.losses import distance_correlation
from spinlock.vqvae.topography import ROWS, distance_correlations


def clouds(items, seed=0, dtype=torch.float64):
    """Three related clouds of 5, 9 and 9 entries, an item in each column."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(5, items, generator=generator, dtype=torch.float64)
    b = torch.tanh(torch.randn(9, 5, generator=generator, dtype=torch.float64) @ a)
    c = b + 0.3 * torch.randn(9, items, generator=generator, dtype=torch.float64)
    return [cloud.to(dtype) for cloud in (a, b, c)]


def plain(*given):
    """The same correlations from whole matrices of distances, by autograd."""
    off = ~torch.eye(given[0].shape[1], dtype=torch.bool)
    distances = []
    for cloud in given:
        squares = (cloud[:, :, None] - cloud[:, None]).square().sum(0)
        distances.append(squares[off].sqrt())
    return tuple(torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in pairwise(distances))


@settings(max_examples=15, deadline=None)
@given(items=st.integers(8, 2 * ROWS + 5), seed=st.integers(0, 1000))
def test_it_is_pearsons_r_over_the_pairwise_distances(items, seed):
    a, b, c = clouds(items, seed)
    expected = [pearsonr(pdist(x.T), pdist(y.T)).statistic for x, y in ((a, b), (b, c))]
    found = distance_correlations(a, b, c)
    assert [float(r) for r in found] == pytest.approx(expected, abs=1e-8)
    assert float(distance_correlation(a.T, b.T)) == pytest.approx(expected[0], abs=1e-8)


@pytest.mark.parametrize("items", [20, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_its_gradient_equals_the_plain_forms(items):
    gradients = []
    for form in (distance_correlations, plain):
        given = [cloud.requires_grad_() for cloud in clouds(items)]
        first, second = form(*given)
        gradients.append(torch.autograd.grad(0.3 * first + 0.7 * second, given))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_the_gradient_written_out_is_that_of_the_values():
    given = [cloud.requires_grad_() for cloud in clouds(7)]
    assert torch.autograd.gradcheck(distance_correlations, given)
    frozen = [cloud.requires_grad_(i == 1) for i, cloud in enumerate(clouds(7))]
    assert torch.autograd.gradcheck(distance_correlations, frozen)


def test_single_precision_gives_the_same_to_rounding():
    single = [cloud.requires_grad_() for cloud in clouds(600, dtype=torch.float32)]
    double = [cloud.requires_grad_() for cloud in clouds(600)]
    for found, expected in zip(
        distance_correlations(*single), distance_correlations(*double), strict=True
    ):
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    for clouds_in in (single, double):
        sum(distance_correlations(*clouds_in)).backward()
    for found, expected in zip(single, double, strict=True):
        error = (found.grad - expected.grad).norm() / expected.grad.norm()
        assert error < 1e-4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_similar_figures_correlate_fully(seed, scale, shift):
    (a, *_) = clouds(40, seed)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    (r,) = distance_correlations(a, scale * rotation @ a + shift)
    assert float(r) == pytest.approx(1.0, abs=1e-7)


def test_independent_embeddings_do_not_correlate():
    # With the zero diagonal counted as pairs, as in the prototype, this is about 0.4.
    values = [
        distance_correlation(
            torch.randn(20, 5, generator=torch.Generator().manual_seed(seed)),
            torch.randn(20, 5, generator=torch.Generator().manual_seed(seed + 1000)),
        )
        for seed in range(40)
    ]
    assert abs(torch.stack(values).mean()) < 0.05


@pytest.mark.parametrize("items", [1, 2])
def test_too_few_items_correlate_not_at_all(items):
    a, b, _ = clouds(items)
    (r,) = distance_correlations(a.requires_grad_(), b)
    r.backward()
    assert r.item() == pytest.approx(0.0, abs=1e-6)
    assert a.grad.isfinite().all()


def test_distances_that_are_all_equal_correlate_not_at_all():
    corners = torch.eye(6, requires_grad=True)  # of a regular simplex
    other = torch.randn(3, 6)
    (r,) = distance_correlations(corners, other)
    r.backward()
    assert r.item() == pytest.approx(0.0, abs=1e-3)
    assert corners.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.9, 5e3])
def test_coinciding_items_do_not_pull_each_other(scale, dtype):
    """Quantized latents coincide: their distance's gradient has no direction, and is taken as 0.

    Otherwise it would be that of rounding noise, over a distance that is noise too.
    """
    a, b, _ = clouds(ROWS + 30, dtype=dtype)
    b = scale * torch.cat([b[:, :50], b[:, :50], b[:, 100:]], 1)
    b.requires_grad_()
    (r,) = distance_correlations(a, b)
    (found,) = torch.autograd.grad(r, b)
    # Plain, with the distances of coinciding items a constant at the floor.
    exact_a, exact_b = a.double(), b.detach().double().requires_grad_()
    squares = (exact_b[:, :, None] - exact_b[:, None]).square().sum(0)
    centred = exact_b.detach() - exact_b.detach().mean(1, keepdim=True)
    floor = 2e-6 * centred.square().sum(0).mean()
    distances = torch.where(squares > floor, squares, floor).sqrt()
    off = ~torch.eye(len(squares), dtype=torch.bool)
    pairs = torch.stack([torch.cdist(exact_a.T, exact_a.T)[off], distances[off]])
    (expected,) = torch.autograd.grad(torch.corrcoef(pairs)[0, 1], exact_b)
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_the_same_clouds_give_the_same_bits():
    results = []
    for _ in range(2):
        given = [cloud.requires_grad_() for cloud in clouds(300, dtype=torch.float32)]
        r = distance_correlations(*given)
        results.append([*r, *torch.autograd.grad(sum(r), given)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def peak_bytes(run):
    """The most that `run` held of what it allocated itself."""
    with profile(profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    assert len(held) > 10
    return int(held.cumsum(0).max())


def test_three_clouds_hold_less_than_three_matrices_of_distances():
    items = 1024
    matrix = 4 * items**2
    given = [cloud.requires_grad_() for cloud in clouds(items, dtype=torch.float32)]

    def step():
        sum(distance_correlations(*given)).backward()

    def judge():
        distance_correlations(*(cloud.detach() for cloud in given))

    assert peak_bytes(step) < 3 * matrix
    assert peak_bytes(judge) < matrix
    assert peak_bytes(lambda: sum(plain(*given)).backward()) > 10 * matrix
