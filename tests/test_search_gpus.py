"""A trial sees the GPUs that it asked for, and none otherwise."""

import platform
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from spinlock.errors import SearchError
from spinlock.search.cluster import DRIVER, connect, worker_environment
from spinlock.search.space import Resources


@pytest.fixture
def ray_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Ray counts what it is told of; no device is needed to divide them."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray counts no more than it lists
    node = {"num_cpus": 4, "num_gpus": 2, "resources": {DRIVER: 9}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.parametrize("local", [True, False])
def test_a_trial_that_asks_for_no_gpu_sees_none(local: bool) -> None:
    assert worker_environment(Resources(), local=local)["CUDA_VISIBLE_DEVICES"] == ""
    asked = worker_environment(Resources(gpus_per_worker=0.25), local=local)
    assert "CUDA_VISIBLE_DEVICES" not in asked  # Ray sets it, to the GPU that it assigns


@pytest.mark.slow
def test_gpus_divide_the_room_and_those_that_no_trial_asks_for_are_told(
    ray_with_two_gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for gpus in (0.0, 0.5, 1.0):
        with connect(Resources(gpus_per_worker=gpus), address=ray_with_two_gpus) as ray_:
            found[gpus] = ray_.concurrent, ray_.idle_gpus
    assert found == {0.0: (4, 2), 0.5: (4, 0), 1.0: (2, 0)}
    here = ("2.59.0", platform.python_version())
    monkeypatch.setattr(ray._private.utils, "compute_version_info", lambda: here)
    told = rf"another version than here: .*Ray: {ray.__version__}; .*Ray: 2\.59\.0"
    with (
        pytest.raises(SearchError, match=told),
        connect(Resources(), address=ray_with_two_gpus),
    ):
        pass


def test_two_workers_of_a_trial_share_no_gpu() -> None:
    with pytest.raises(ValueError, match="on one GPU, which NCCL refuses"):
        Resources(workers=2, gpus_per_worker=0.5)
    assert Resources(workers=2, gpus_per_worker=1).gpus_per_worker == 1
