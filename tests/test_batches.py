"""A training window is the file's own frames at the window's own times."""

from pathlib import Path

import pytest
import torch

from spinlock.data import open_dataset
from spinlock.training import batches
from spinlock.training.batches import Windows

CPU = torch.device("cpu")


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("timesteps", "window"), [(8, 4), (8, 8), (6, 1)])
def test_the_target_is_the_last_window_of_the_steps_asked_for(
    timesteps: int, window: int, cached: bool, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cached:
        monkeypatch.setattr(batches, "CACHE_BYTES", 0)
    dataset, items = open_dataset(tiny_data), [7, 2, 5]
    batch = Windows(dataset, [2, 3, 5, 7], timesteps, window).batch(items, CPU)
    whole = dataset.trajectories(items)
    assert torch.equal(batch.initial, whole[:, 0])
    # frame t is the state after t steps
    assert torch.equal(batch.target, whole[:, timesteps - window + 1 : timesteps + 1])
    assert torch.equal(batch.parameters, dataset.parameters(items))
