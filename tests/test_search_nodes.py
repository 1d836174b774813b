"""A search on several nodes starts only where all of them see the same files."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from searching import Regression, RegressionConfig

from spinlock.errors import SearchError
from spinlock.search import checkpoints
from spinlock.search.cluster import DRIVER, _free_port, _in_turn, connect
from spinlock.search.noa import NOA
from spinlock.search.nodes import _look, require_shared
from spinlock.search.space import Resources
from spinlock.training.config import training_config

FACTS = {"problem": "seed 0"}


class OfItsNode(Regression):
    """Stands on something that each node has for itself."""

    def facts(self, config: RegressionConfig) -> dict[str, Any]:  # noqa: ARG002
        return {"problem": ray.get_runtime_context().get_node_id()}


@pytest.fixture
def two_nodes(nodes_on_loopback: None) -> Iterator[str]:
    node = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"resources": {DRIVER: 9}})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_nodes_that_see_the_same_pass_and_those_that_do_not_are_named(
    two_nodes: str, tmp_path: Path
) -> None:
    with connect(Resources(execution="in_process"), address=two_nodes):
        require_shared(tmp_path, Regression(), RegressionConfig(), FACTS)
        here = OfItsNode().facts(RegressionConfig())
        with pytest.raises(SearchError, match=r"node \S+ \(\S+\): the problem is not the same"):
            require_shared(tmp_path, OfItsNode(), RegressionConfig(), here)
    assert not list(tmp_path.iterdir()), "the mark is taken away"


@pytest.mark.slow
def test_processes_of_our_own_ray_ask_its_own_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train's cleaner does. Left to look for it, it gives up where two Rays run, and what a
    killed group held is held for ever; told of another cluster by the user, it would ask there.
    """
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")

    def asked() -> str | None:
        return os.environ.get("RAY_API_SERVER_ADDRESS")

    with connect(Resources()) as found:
        assert ray.get(ray.remote(asked).remote()) == found.dashboard
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://elsewhere:8265"


def test_a_node_tells_what_it_does_not_see(tmp_path: Path, noa_run: dict[str, Any]) -> None:
    mark = tmp_path / "mark"
    unseen = _look(mark, "word", Regression(), RegressionConfig(), FACTS)
    assert unseen == f"what was written to {tmp_path} is not there (No such file or directory)"
    mark.write_text("another")
    other = _look(mark, "word", Regression(), RegressionConfig(), FACTS)
    assert other == f"{tmp_path} is another directory there"
    mark.write_text("word")
    assert _look(mark, "word", Regression(), RegressionConfig(), FACTS) is None
    config = training_config(noa_run, where="run")
    facts = NOA().facts(config)
    assert _look(mark, "word", NOA(), config, facts) is None
    changed = _look(mark, "word", NOA(), config, facts | {"tokenizer": "sha256:0"})
    assert changed == "the tokenizer is not the same there"
    absent = config.model_copy(
        update={"data": config.data.model_copy(update={"path": tmp_path / "absent.h5"})}
    )
    missing = _look(mark, "word", NOA(), absent, facts)
    assert missing is not None
    assert "absent.h5" in missing


def test_a_trial_begins_nothing_where_the_experiment_is_not_seen(tmp_path: Path) -> None:
    """On a node that joined later, a checkpoint on its own disk would be lost with it."""
    trial = checkpoints.trial_directory(tmp_path / "elsewhere", 0)
    with (
        pytest.raises(SearchError, match="storage that all nodes share"),
        checkpoints.exclusive(trial),
    ):
        pass
    assert not trial.parent.exists()


def test_what_stands_in_the_way_of_the_lock_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"spinlock-{os.getuid()}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SearchError, match="cannot be locked while Ray starts"), _in_turn():
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_searches_that_begin_at_once_choose_different_ports_for_their_dashboards() -> None:
    def begin() -> socket.socket:
        with _in_turn():
            port = _free_port()
            time.sleep(0.1)  # a dashboard does not listen at once
            return socket.create_server(("127.0.0.1", port))

    with ThreadPoolExecutor(3) as together:
        servers = [each.result() for each in [together.submit(begin) for _ in range(3)]]
    assert len({server.getsockname()[1] for server in servers}) == 3
    for server in servers:
        server.close()
