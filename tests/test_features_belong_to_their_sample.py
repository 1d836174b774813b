"""A sample's features are the same digits alone, in any batch, and in any memory layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinlock.features import FeatureConfig, extract, per_frame

ALL = FeatureConfig()


def _batch(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(2, 5),
    frames=st.integers(3, 12),
    channels=st.integers(1, 4),
    height=st.integers(8, 20),
    width=st.integers(8, 20),
    threads=st.sampled_from([1, 2]),
)
def test_features_are_bit_equal_alone_and_in_a_batch(
    batch: int, frames: int, channels: int, height: int, width: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    trajectory = _batch((batch, frames, channels, height, width), seed=batch)
    together = extract(trajectory, ALL)
    for item in range(batch):
        assert torch.equal(together[item : item + 1], extract(trajectory[item : item + 1], ALL))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 17, 1, 64, 64), (2, 6, 3, 63, 61)])
def test_bit_equality_holds_where_work_is_split_among_threads(
    shape: tuple[int, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    trajectory = _batch(shape)
    together = extract(trajectory, ALL)
    for item in range(shape[0]):
        assert torch.equal(together[item : item + 1], extract(trajectory[item : item + 1], ALL))


def test_features_do_not_depend_on_the_number_of_threads() -> None:
    trajectory = _batch((1, 9, 2, 63, 64))
    one = extract(trajectory, ALL)
    torch.set_num_threads(2)
    assert torch.equal(extract(trajectory, ALL), one)


def test_permuting_a_batch_permutes_its_features() -> None:
    trajectory = _batch((5, 6, 2, 16, 16))
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(extract(trajectory, ALL)[order], extract(trajectory[order], ALL))


def test_the_memory_layout_does_not_matter() -> None:
    trajectory = _batch((2, 6, 3, 16, 12))
    channels_last = trajectory.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert not channels_last.is_contiguous()
    assert torch.equal(extract(channels_last, ALL), extract(trajectory, ALL))


def test_a_samples_gradient_reaches_no_other_sample() -> None:
    trajectory = _batch((3, 5, 2, 12, 12)).requires_grad_()
    (gradient,) = torch.autograd.grad(extract(trajectory, ALL)[1].sum(), trajectory)
    assert gradient[1].abs().max() > 0
    assert gradient[0].abs().max() == 0
    assert gradient[2].abs().max() == 0


def test_per_frame_features_are_bit_equal_alone_and_in_a_batch() -> None:
    trajectory = _batch((4, 7, 2, 16, 16))
    together = per_frame(trajectory)
    assert together.shape[:2] == (4, 7)
    assert torch.equal(together[2:3], per_frame(trajectory[2:3]))
