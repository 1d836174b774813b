"""Data-parallel trials on machines that come and go: with fewer workers rather than with none."""

import threading
import time
from pathlib import Path

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster
from searching import Regression, RegressionConfig, RegressionTrainer, told, without_ray
from test_search_preemption import searched, study, three_nodes  # noqa: F401

from spinlock.search.events import State
from spinlock.search.ledger import read_ledger
from spinlock.search.space import Resources, Study
from spinlock.training.parallel import CPU, World


class Sized(Regression):
    """Tells in a file of how many workers is each group that takes up a trial."""

    def __init__(self, sizes: Path) -> None:
        self.sizes = sizes

    def build(self, config: RegressionConfig) -> RegressionTrainer:
        world = World.current(CPU)
        if world.rank == 0:
            with self.sizes.open("a") as stream:
                stream.write(f"{world.size} ")
        return super().build(config)


@pytest.mark.parametrize(
    ("resources", "fault"),
    [
        ({"workers": 2, "min_workers": 2}, "fewer than that, not 2"),
        ({"min_workers": 1}, "how many of 1 workers are enough"),
    ],
)
def test_fewer_workers_than_all_are_fewer(resources: dict[str, int], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Resources.model_validate(resources)


@pytest.mark.soak  # Ray takes a minute to give up a group for which there is no room
@pytest.mark.slow
def test_a_trial_goes_on_with_the_workers_that_are_left_and_the_next_with_those_that_came(
    three_nodes: Cluster,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A node that is added in a thread cannot hear of signals, and dies with its thread.
    monkeypatch.setattr(Node, "_register_shutdown_hooks", lambda _: None)
    ended = threading.Event()

    def add_one() -> None:
        three_nodes.add_node(num_cpus=1)
        ended.wait()

    given = study("ray_train", seconds=4.0).model_dump() | {"trials": 2, "retries": 1}
    given["resources"] |= {"workers": 2, "min_workers": 1}
    wanted, experiment = Study.model_validate(given), tmp_path / "x"

    sizes = tmp_path / "sizes"

    def lose_one_for_a_while() -> None:
        three_nodes.remove_node(next(iter(three_nodes.worker_nodes)), allow_graceful=False)
        deadline = time.monotonic() + 200
        while len(sizes.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        threading.Thread(target=add_one, daemon=True).start()

    searched(wanted, experiment, three_nodes.address, lose_one_for_a_while, Sized(sizes))
    ended.set()
    ledger = read_ledger(experiment)
    assert [trial.state() for trial in ledger.trials.values()] == [State.COMPLETED] * 2
    assert [trial.attempts for trial in ledger.trials.values()] == [2, 1]
    assert told(ledger) == told(without_ray(wanted, tmp_path / "plain"))
    assert sizes.read_text().split() == ["2", "1", "2"]
