"""A machine that is taken away: its trials leave with a checkpoint, and go on elsewhere."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.util.state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from searching import Regression, RegressionConfig, RegressionTrainer, told, without_ray
from test_searcher_optuna import agree, load

from spinlock.search import checkpoints
from spinlock.search.attempt import Assignment, reports
from spinlock.search.checkpoints import checkpoint_directory, trial_directory
from spinlock.search.cluster import DRIVER
from spinlock.search.events import State, read_events
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.preemption import Notice, Preempted
from spinlock.search.space import Objective, Resources, Study
from spinlock.search.story import explain
from spinlock.search.study import run

EPOCHS = 3


def study(execution: str, **training: object) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 1,
            "seed": 1,
            "retries": 0,  # so that a preemption that counted would end the trial
            "resources": {"execution": execution, "concurrent": 1},
            "searcher": {"kind": "random"},
            "scheduler": {"kind": "none"},
            "training": {"epochs": EPOCHS, "batch_size": 4, **training},
            "space": {"optimizer.lr": {"log_uniform": [0.01, 0.1]}},
        }
    )


@pytest.fixture
def three_nodes(nodes_on_loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that trains nothing, and two nodes with room for one trial each."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"resources": {DRIVER: 9}})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def searched(
    wanted: Study,
    experiment: Path,
    address: str | None,
    disturb: Callable[[], None],
    trainable: Regression | None = None,
) -> None:
    """Run the search, and disturb it within the second epoch of its trial."""
    told = Future[None]()

    def wait() -> None:
        try:
            deadline = time.monotonic() + 200
            while not any(event.event == "epoch" for event in log(experiment)):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(1)
            told.set_result(disturb())
        except BaseException as error:  # noqa: BLE001 - raised below
            told.set_exception(error)

    threading.Thread(target=wait, daemon=True).start()
    run(wanted, trainable or Regression(), experiment, address=address, dashboard=False)
    told.result(0)


def drain(address: str, node: str, deadline: float) -> None:
    """As `ray drain-node` does."""
    client = ray._raylet.GcsClient(address=address)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "taken back", int(deadline * 1000))
    assert accepted, why


def busy_node() -> str | None:
    """The node whose CPU is taken."""
    for name, left in ray._private.state.available_resources_per_node().items():
        total = ray._private.state.total_resources_per_node().get(name, {})
        if total.get("CPU", 0) and not left.get("CPU", 0):
            return str(name)
    return None


def log(experiment: Path) -> list[Any]:
    path = experiment / EVENTS
    return list(read_events(path)) if path.is_file() else []


def states(experiment: Path) -> list[State]:
    """Those of trial 0, as the log tells them, without repetitions."""
    ledger, found = Ledger(), list[State]()
    for event in log(experiment):
        ledger.apply(event)
        if ledger.trials and (not found or ledger.trials[0].state() != found[-1]):
            found.append(ledger.trials[0].state())
    return found


def moved_once(experiment: Path, wanted: Study, tmp_path: Path) -> None:
    """Trial 0 was preempted once, and has the numbers of a trial that never was."""
    ledger = read_ledger(experiment)
    trial = ledger.trials[0]
    assert states(experiment) == [State.RUNNING, State.PREEMPTED, State.RUNNING, State.COMPLETED]
    assert (trial.attempts, trial.crashes, len(trial.preemptions)) == (2, [], 1)
    assert told(ledger) == told(without_ray(wanted, tmp_path / "plain"))
    agree(ledger, load(experiment))


@pytest.mark.slow
@pytest.mark.parametrize(
    "execution", [pytest.param("in_process", marks=pytest.mark.soak), "ray_train"]
)
def test_a_trial_whose_node_is_drained_goes_on_elsewhere_where_it_was(
    three_nodes: Cluster, tmp_path: Path, execution: str
) -> None:
    wanted, experiment = study(execution, seconds=6.0), tmp_path / "x"
    deadline = math.inf

    def disturb() -> None:
        nonlocal deadline
        deadline = time.time() + 60
        node = busy_node()
        assert node is not None
        drain(three_nodes.address, node, deadline)

    searched(wanted, experiment, three_nodes.address, disturb)
    moved_once(experiment, wanted, tmp_path)
    (left,) = (event for event in log(experiment) if event.event == "preempted")
    assert left.time < deadline
    ((epoch, reason),) = read_ledger(experiment).trials[0].preemptions
    assert "is being drained and goes in" in reason
    story = explain(read_ledger(experiment), 0)
    assert any(line.startswith(f"It was preempted after epoch {epoch}: node") for line in story)


@pytest.mark.soak
def test_a_trial_whose_node_goes_before_it_has_ended_a_step_is_preempted_all_the_same(
    three_nodes: Cluster, tmp_path: Path
) -> None:
    wanted, experiment = study("ray_train", seconds=24.0, batch_size=48), tmp_path / "x"
    desks = set[str]()

    def disturb() -> None:
        node = busy_node()
        assert node is not None
        actors = ray.util.state.list_actors(filters=[("class_name", "=", "Desk")])
        desks.update(each.node_id for each in actors)
        (at,) = (each for each in three_nodes.worker_nodes if each.node_id == node)
        drain(three_nodes.address, node, time.time() + 3)
        time.sleep(3)
        three_nodes.remove_node(at, allow_graceful=False)

    searched(wanted, experiment, three_nodes.address, disturb)
    moved_once(experiment, wanted, tmp_path)
    assert desks == {three_nodes.head_node.node_id}, "with the process that waits for the group"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execution", "title", "place"),
    [
        ("in_process", "ray::x trial 0", 0),
        pytest.param("ray_train", "ray::x trial 0", 0, marks=pytest.mark.soak),  # which conducts
        pytest.param("ray_train", "ray::RayTrainWorker", 0, marks=pytest.mark.soak),
        pytest.param("ray_train", "ray::RayTrainWorker", 1, marks=pytest.mark.soak),
    ],
)
def test_a_trial_whose_process_is_told_to_end_saves_and_goes_on(
    tmp_path: Path, execution: str, title: str, place: int
) -> None:
    wanted, experiment = study(execution, seconds=4.0), tmp_path / "x"
    if execution == "ray_train":
        wanted = wanted.model_copy(update={"resources": Resources(workers=2, concurrent=1)})

    def disturb() -> None:
        below = psutil.Process().children(recursive=True)
        found = [each for each in below if title in " ".join(each.cmdline())]
        sorted(found, key=lambda each: each.pid)[place].terminate()

    searched(wanted, experiment, None, disturb)
    moved_once(experiment, wanted, tmp_path)
    assert "(SIGTERM)" in read_ledger(experiment).trials[0].preemptions[0][1]


def test_a_trial_that_leaves_in_the_middle_of_an_epoch_goes_on_from_that_step(
    tmp_path: Path,
) -> None:
    trial, goals = trial_directory(tmp_path, 0), (Objective(),)
    trial.parent.mkdir()
    config = {"epochs": EPOCHS, "batch_size": 4}
    assignment = Assignment(0, trial, config, 0, goals)
    notice = Notice()
    first = reports(Regression(), assignment, notice, leads=True)
    got = [next(first)]
    notice.reason = "node a is being drained"
    with pytest.raises(Preempted, match="node a is being drained") as left:
        next(first)
    assert left.value.preempted, "which Tune asks"
    names = sorted(path.name for path in (trial / "checkpoints").iterdir())
    assert names == ["00001", "00001+"]
    with pytest.raises(Preempted):  # a process that is taken away does not even begin
        next(reports(Regression(), assignment, notice, leads=True))

    steps = 0

    class Counted(Regression):
        def build(self, config: RegressionConfig) -> RegressionTrainer:
            trainer = super().build(config)
            restore = trainer.restore

            def seen(directory: Path) -> None:
                nonlocal steps
                restore(directory)
                steps = trainer.epoch * 12 + trainer.batch

            trainer.restore = seen  # type: ignore[method-assign]
            return trainer

    got += reports(Counted(), assignment, Notice(), leads=True)
    assert steps == 13, "one step of the second epoch"
    assert [report.epoch for report in got] == [1, 1, 2, 3]
    straight = list(RegressionTrainer(RegressionConfig(**config)).epochs())
    assert [r.metrics["val/traj"] for r in got[1:]] == [r.metrics["val/traj"] for r in straight]
    assert checkpoint_directory(trial, EPOCHS) == checkpoints.newest_first(trial)[0]
    assert not [*trial.glob("checkpoints/*+")], "overtaken by the next report"
