"""A trial goes on from its newest sound checkpoint and tells again what may not have been heard."""

import math
import multiprocessing
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import Regression, RegressionConfig

from spinlock.errors import SearchError
from spinlock.search import checkpoints
from spinlock.search.attempt import Assignment, reports
from spinlock.search.checkpoints import (
    Report,
    checkpoint_directory,
    newest_first,
    trial_directory,
)
from spinlock.search.ledger import Ledger
from spinlock.search.pareto import best_epoch
from spinlock.search.preemption import Notice
from spinlock.search.space import Objective
from spinlock.search.summary import disk
from spinlock.search.trial import Trial


def assignment(directory: Path, *, acknowledged: int = 0, **training: object) -> Assignment:
    return Assignment(
        number=0,
        directory=directory,
        training=RegressionConfig.model_validate(training).model_dump(mode="json"),
        acknowledged=acknowledged,
        objectives=(Objective(),),
    )


def train(wanted: Assignment, epochs: int | None = None) -> list[tuple[int, dict[str, float]]]:
    """Epochs and metrics but for the clock; left alone after `epochs` of them."""
    found = []
    running = reports(Regression(), wanted, Notice(), leads=True)
    for report in running:
        found.append((report.epoch, {k: v for k, v in report.metrics.items() if k != "seconds"}))
        if len(found) == epochs:
            running.close()
    return found


@pytest.fixture
def straight(tmp_path: Path) -> list[tuple[int, dict[str, float]]]:
    return train(assignment(tmp_path / "straight", epochs=6))


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_a_trial_taken_up_again_equals_one_trained_straight_through(
    tmp_path: Path, straight: list[tuple[int, dict[str, float]]], stop: int
) -> None:
    first = train(assignment(tmp_path / "t", epochs=6), stop)
    rest = train(assignment(tmp_path / "t", epochs=6, acknowledged=stop))
    assert first + rest == straight


def test_only_who_leads_a_group_removes_what_is_half_written(tmp_path: Path) -> None:
    trial = tmp_path / "t"
    train(assignment(trial, epochs=6), 1)
    half = trial / "checkpoints" / ".00002.123.partial"
    half.mkdir()
    follower = reports(Regression(), assignment(trial, epochs=6), Notice(), leads=False)
    next(follower)
    assert half.exists(), "the leader may be writing it"
    follower.close()
    train(assignment(trial, epochs=6), 1)
    assert not half.exists()


@pytest.mark.parametrize("acknowledged", [0, 1, 3])
def test_epochs_that_nobody_acknowledged_are_told_again_without_training(
    tmp_path: Path, straight: list[tuple[int, dict[str, float]]], acknowledged: int
) -> None:
    train(assignment(tmp_path / "t", epochs=6), 4)
    newest = (checkpoint_directory(tmp_path / "t", 4) / "reports.json").stat().st_mtime_ns
    again = train(assignment(tmp_path / "t", epochs=6, acknowledged=acknowledged))
    assert again == straight[acknowledged:]
    assert (checkpoint_directory(tmp_path / "t", 5) / "reports.json").stat().st_mtime_ns > newest


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "reports", "half", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, straight: list[tuple[int, dict[str, float]]], damage: str
) -> None:
    train(assignment(tmp_path / "t", epochs=6), 4)
    newest = checkpoint_directory(tmp_path / "t", 4)
    state = newest / "trainer" / "state.pt"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:100])
    elif damage == "flipped":  # which torch loads without a word
        content = bytearray(state.read_bytes())
        at = content.index(torch.load(state)["weights"].numpy().tobytes())
        content[at] ^= 0x40
        state.write_bytes(content)
    elif damage == "missing":
        state.unlink()
    elif damage == "reports":
        (newest / "reports.json").write_text("[{]")
    elif damage == "empty":
        shutil.rmtree(newest)
        newest.mkdir()
    else:  # killed while writing: still under its other name
        newest.rename(newest.with_name(f".{newest.name}.123.partial"))
    assert train(assignment(tmp_path / "t", epochs=6, acknowledged=4))[-1] == straight[-1]
    assert train(assignment(tmp_path / "t", epochs=6)) == straight
    assert not [name for name in kept(tmp_path / "t") if name.startswith(".")]


class Nothing:
    """A trainer with a state of a kilobyte."""

    on_step = None

    def epochs(self):  # pragma: no cover
        return iter(())

    def save(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "state").write_bytes(b"0" * 1000)

    def restore(self, directory: Path) -> None: ...


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    history: list[Report] = []
    for epoch, value in enumerate((0.9, 0.3, math.nan, 0.3, 0.4, 0.5), start=1):
        history.append(Report(epoch, {"val/traj": value}))
        checkpoints.save(tmp_path, Nothing(), history, [Objective()])
    assert kept(tmp_path) == ["00002", "00005", "00006"]
    assert [path.name for path in newest_first(tmp_path)] == ["00006", "00005", "00002"]
    restored = checkpoints.reports_in(checkpoint_directory(tmp_path, 6))
    assert str(restored) == str(history)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(
        st.tuples(*[st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan])] * 2), min_size=1, max_size=9
    ),
    goals=st.sampled_from([("a",), ("a", "b")]),
)
def test_what_a_trial_stands_for_and_goes_on_from_is_on_disk_at_every_moment(
    values: list[tuple[float, float]], goals: tuple[str, ...]
) -> None:
    """Whether the driver has heard the newest report or was killed before: best, front, paused."""
    objectives = [Objective(metric=name) for name in goals]
    with TemporaryDirectory() as place:
        trial, history = Path(place), list[Report]()
        for epoch, (a, b) in enumerate(values, start=1):
            history.append(Report(epoch, {"a": a, "b": b}))
            checkpoints.save(trial, Nothing(), history, objectives)
            for heard in (history, history[:-1]):
                best = best_epoch({r.epoch: r.metrics for r in heard}, objectives)
                assert best is None or checkpoint_directory(trial, best[0]).is_dir()
                assert not heard or checkpoint_directory(trial, heard[-1].epoch).is_dir()
        assert len(kept(trial)) <= 4
        assert checkpoints.size(trial) >= 1000 * len(kept(trial))


def test_the_summary_says_what_the_checkpoints_take(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.trials = {number: Trial(number, {}, 0.0) for number in range(2)}
    assert disk(ledger, tmp_path) == "disk  no checkpoints"
    for number, epochs in ((0, 1), (1, 2)):
        history = [Report(epoch, {"val/traj": 1.0}) for epoch in range(1, epochs + 1)]
        for epoch in range(epochs):
            checkpoints.save(
                trial_directory(tmp_path, number), Nothing(), history[: epoch + 1], [Objective()]
            )
    assert disk(ledger, tmp_path) == "disk  3.8 kB of checkpoints, the most by trial 1: 2.5 kB"


def test_a_nan_epoch_leaves_no_checkpoint_and_ends_the_trial(tmp_path: Path) -> None:
    told = train(assignment(tmp_path / "t", epochs=6, nan_above=0.01))
    assert [epoch for epoch, _ in told] == [1, 2]
    assert kept(tmp_path / "t") == ["00001"]


def _hold(directory: Path, seconds: float, ready: object) -> None:
    with checkpoints.exclusive(directory):
        ready.set()
        time.sleep(seconds)


def test_a_trial_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Whoever takes a trial up waits for the process that a killed driver left behind."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, 1.0, ready))
    other.start()
    ready.wait()
    with (
        pytest.raises(SearchError, match="another process still trains"),
        checkpoints.exclusive(tmp_path, patience=0),
    ):
        pass
    with checkpoints.exclusive(tmp_path, patience=30):
        assert train(assignment(tmp_path / "t", epochs=1))
    other.join()
