"""A micro-batch is planned from a probe and the log, and halved by a memory monitor's kill."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from hungry import DEMAND, STEP
from ray import tune
from ray._raylet import getproctitle, setproctitle
from ray.exceptions import OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from test_scheduler_rules import book, metrics, study

from spinlock.search.attempt import Assignment, reports
from spinlock.search.book import Book
from spinlock.search.checkpoints import Report
from spinlock.search.events import Sizing, State
from spinlock.search.execution import TRIAL, _report
from spinlock.search.ledger import read_ledger
from spinlock.search.memory_kill import MemoryKillError, is_memory_kill
from spinlock.search.memory_model import Known
from spinlock.search.memory_shown import KEPT
from spinlock.search.noa import NOA
from spinlock.search.preemption import Notice
from spinlock.search.sizing import Room
from spinlock.search.space import Objective
from spinlock.search.story import explain
from spinlock.training.footprint import Footprint, Probe

FOOTPRINT = Footprint({"process": 2.0**30}, {"window": 1e8}, 8)


def sizing(micro_batch: int = 8, per_sample: float = 1e8) -> Sizing:
    return Sizing(
        micro_batch=micro_batch,
        once=5e8,
        per_sample=per_sample,
        margin=0.1,
        limit=2e9,
        device="cpu",
        footprint=FOOTPRINT,
        probes=(Probe(1, 600_000_000, 0.5, 0.2),),
    )


def begun(directory: Path, *plans: Sizing, retries: int = 1) -> Book:
    """A search whose trials have begun, one with each plan."""
    found = book(directory, study(retries=retries))
    for plan in plans:
        number = found.suggested({"optimizer.lr": 0.01}).number
        found.started(number)
        found.sized(number, plan)
    return found


def kill(found: Book, number: int) -> None:
    found.crashed(number, "MemoryKillError: the node was running low", memory=True)


def test_a_kill_halves_the_micro_batch_until_a_single_sample_that_does_not_fit_ends_the_trial(
    tmp_path: Path,
) -> None:
    found = begun(tmp_path, sizing(8), retries=0)
    trial = found.ledger.trials[0]
    for expected in (4, 2, 1):
        kill(found, 0)
        assert trial.micro_batch == expected
        assert trial.verdict is None
        found.started(0)
    kill(found, 0)
    assert trial.verdict is not None
    assert (trial.verdict.state, trial.verdict.rule) == (State.INFEASIBLE, "memory")
    told = "\n".join(explain(read_ledger(tmp_path), 0))
    assert "planned micro-batches of 8 of 8: 1.3 GB and 10% more, of the 2 GB of cpu" in told
    assert "It ended: the node's memory monitor killed it with a micro-batch of 1." in told


def test_a_trial_that_is_killed_before_its_plan_goes_on_with_single_samples_while_retries_last(
    tmp_path: Path,
) -> None:
    found = book(tmp_path, study(retries=2))
    found.suggested({"optimizer.lr": 0.01})
    for _ in range(2):
        kill(found, 0)  # also where its process has not even started
        found.started(0)
        assert found.ledger.trials[0].micro_batch == 1
        assert found.ledger.trials[0].verdict is None
    kill(found, 0)
    verdict = found.ledger.trials[0].verdict
    assert verdict is not None
    assert verdict.state == State.INFEASIBLE
    assert verdict.sentence.endswith("killed it 3 times before it had begun to train")


def test_of_those_killed_at_once_the_largest_is_halved_and_the_others_go_on_as_they_were(
    tmp_path: Path,
) -> None:
    found = begun(tmp_path, sizing(4), sizing(8), sizing(2), retries=0)
    for number in (0, 1, 2):
        kill(found, number)
    assert [trial.micro_batch for trial in found.ledger.trials.values()] == [4, 4, 2]
    assert not any(trial.verdict for trial in found.ledger.trials.values())
    kill(found, 0)  # again without a report in between: it is no bystander
    assert found.ledger.trials[0].micro_batch == 2
    found.report(2, 1, metrics(1.0), None)
    kill(found, 2)  # it has reported, so it may be one again
    assert found.ledger.trials[2].micro_batch == 2


def test_a_kill_of_the_process_of_a_trial_that_has_ended_or_waits_is_no_crash(
    tmp_path: Path,
) -> None:
    found = begun(tmp_path, sizing(8))
    found.fail(0, "for a reason of its own")
    kill(found, 0)
    paused = book(
        tmp_path / "paused",
        study(scheduler={"kind": "promotion", "grace_epochs": 1, "reduction_factor": 2}),
    )
    paused.suggested({"optimizer.lr": 0.01})
    paused.started(0)
    paused.sized(0, sizing(8))
    paused.report(0, 1, metrics(1.0), None)
    assert paused.ledger.trials[0].paused == 1
    kill(paused, 0)
    for directory in (tmp_path, tmp_path / "paused"):
        trial = read_ledger(directory).trials[0]
        assert (trial.crashes, trial.micro_batch) == ([], 8)


def test_a_kill_is_no_retry_and_the_log_alone_gives_the_same_trial(tmp_path: Path) -> None:
    found = begun(tmp_path, sizing(8), retries=1)
    for _ in range(2):
        kill(found, 0)
        found.started(0)
    found.crashed(0, "ValueError: once")
    assert found.ledger.trials[0].verdict is None
    assert read_ledger(tmp_path).trials == found.ledger.trials
    found.crashed(0, "ValueError: twice")
    trial = found.ledger.trials[0]
    assert trial.verdict is not None
    assert (trial.state(), trial.verdict.sentence) == (State.FAILED, "ValueError: twice")


def test_a_micro_batch_that_ran_out_of_memory_is_not_taken_up_again(tmp_path: Path) -> None:
    found = begun(tmp_path, sizing(8))
    found.report(0, 1, metrics(1.0) | {"micro_batch": 2.0, "peak_memory_bytes": 9e8}, None)
    assert found.ledger.trials[0].micro_batch == 2
    kill(found, 0)
    assert found.ledger.trials[0].micro_batch == 1


def test_later_plans_know_the_peaks_of_the_log_and_what_did_not_fit(tmp_path: Path) -> None:
    found = begun(tmp_path, sizing(8), sizing(8, per_sample=2e8), sizing(4, per_sample=2.5e8))
    memory = found.ledger.memory
    took = {"micro_batch": 8.0, "peak_memory_bytes": 1e9}
    found.report(0, 1, metrics(1.0) | took, None)
    found.report(0, 2, metrics(0.9) | took | {"peak_memory_bytes": 1.1e9}, None)
    assert [(peak.micro_batch, peak.peak) for peak in memory.known.peaks] == [(8, 1.1e9)]
    assert memory.known.failed == float("inf")
    found.report(1, 1, metrics(1.0) | took | {"micro_batch": 4.0}, None)  # halved within it
    assert len(memory.known.peaks) == 1
    assert memory.known.failed == 5e8 + 8 * 2e8
    kill(found, 2)  # the smaller, so not to blame
    assert memory.known.failed == 5e8 + 8 * 2e8
    kill(found, 2)
    assert memory.known.failed == 5e8 + 4 * 2.5e8


def test_the_first_epoch_after_a_kill_tells_the_peak_of_the_smaller_micro_batch(
    tmp_path: Path,
) -> None:
    found = begun(tmp_path, sizing(8))
    kill(found, 0)
    found.started(0)
    took = {"micro_batch": 4.0, "peak_memory_bytes": 7e8}
    found.report(0, 1, metrics(1.0) | took, None)
    known = found.ledger.memory.known
    assert [(peak.micro_batch, peak.peak) for peak in known.peaks] == [(4, 7e8)]
    assert known.failed == found.ledger.trials[0].sizing.predicted(8)


def test_a_plan_is_told_of_the_newest_peaks_alone(tmp_path: Path) -> None:
    found = begun(tmp_path, *[sizing(8)] * (KEPT + 2))
    for number in reversed(found.ledger.trials):
        took = {"micro_batch": 8.0, "peak_memory_bytes": 1e9 + number}
        found.report(number, 1, metrics(1.0) | took, None)
    peaks = [peak.peak for peak in found.ledger.memory.known.peaks]
    assert peaks == [1e9 + number for number in reversed(range(KEPT))]


def assignment(directory: Path, run: dict[str, Any], **changes: Any) -> Assignment:
    return Assignment(
        **{
            "number": 0,
            "directory": directory,
            "training": run,
            "acknowledged": 0,
            "objectives": (Objective(),),
            **changes,
        }
    )


def told(directory: Path, run: dict[str, Any], gigabytes: float | None, **changes: Any) -> Any:
    given = assignment(directory, run, room=Room(gigabytes=gigabytes), **changes)
    return list(reports(NOA(), given, Notice(), leads=True))


def test_a_plan_comes_before_all_epochs_and_a_small_room_gives_the_same_epochs_in_parts(
    noa_run: dict[str, Any], tmp_path: Path
) -> None:
    run = {**noa_run, "model": {**noa_run["model"], "base_channels": 64}}
    roomy, *expected = told(tmp_path / "roomy", run, None)
    assert isinstance(roomy, Sizing)
    assert roomy.micro_batch == 8
    assert [probe.micro_batch for probe in roomy.probes] == [1, 2, 4]
    middle = roomy.predicted(3) * (1 + roomy.margin) / 1e9
    tight, *found = told(tmp_path / "tight", run, middle)
    assert isinstance(tight, Sizing)
    assert 1 <= tight.micro_batch < 8
    for one, two in zip(expected, found, strict=True):
        assert isinstance(two, Report)
        assert two.metrics["micro_batch"] == tight.micro_batch
        for name in ("train/total", "val/traj", "val/commit", "gradient_norm"):
            assert two.metrics[name] == pytest.approx(one.metrics[name], rel=2e-3), name


def test_a_later_attempt_keeps_to_its_micro_batch_and_is_not_planned_again(
    noa_run: dict[str, Any], tmp_path: Path
) -> None:
    first = reports(NOA(), assignment(tmp_path, noa_run), Notice(), leads=True)
    assert isinstance(next(first), Sizing)
    next(first)
    first.close()
    (after,) = told(tmp_path, noa_run, None, acknowledged=1, attempt=2, micro_batch=2)
    assert isinstance(after, Report)
    assert (after.epoch, after.metrics["micro_batch"]) == (2, 2.0)


def test_what_failed_before_bounds_a_plan(noa_run: dict[str, Any], tmp_path: Path) -> None:
    (plan, *_) = told(tmp_path / "a", noa_run, None)
    bound = plan.predicted(2) * (1 + plan.margin)
    (bounded, *_) = told(tmp_path / "b", noa_run, None, known=Known(failed=bound))
    assert bounded.limit == bound
    assert bounded.micro_batch <= 4


def test_a_kill_is_known_from_whatever_ray_wraps_around_it() -> None:
    assert is_memory_kill(MemoryKillError("low"))
    killed = OutOfMemoryError("low")
    assert is_memory_kill(killed)
    assert is_memory_kill(WorkerGroupError("", {0: ValueError("its peer has gone"), 1: killed}))
    assert is_memory_kill(WorkerGroupError("", {0: WorkerHealthCheckFailedError("", killed)}))
    assert is_memory_kill(ControllerError(killed))
    assert not is_memory_kill(WorkerGroupError("", {0: ValueError("a fault of its own")}))
    assert not is_memory_kill(ray.exceptions.ActorDiedError())


def test_a_process_is_named_after_its_trial_also_once_the_plan_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray names it after its own method whenever Tune goes on."""

    def goes_on(_: object) -> None:
        setproctitle("ray::ResourceTrainable.train")

    def title() -> str:
        return Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode()

    def reported() -> Iterator[Report | Sizing]:
        yield sizing()
        seen.append(title())
        yield Report(3, {"val/traj": 1.0})
        seen.append(title())

    seen, before = list[str](), getproctitle()
    monkeypatch.setattr(tune, "report", goes_on)
    try:
        directory = str(tmp_path / "x/trials/00004")
        _report(reported(), {"directory": directory, TRIAL: 4, "acknowledged": 2})
    finally:
        setproctitle(before)
    assert seen == ["ray::x trial 4 from epoch 3 on", "ray::x trial 4 after epoch 3"]


def memory() -> tuple[int, int]:
    """Bytes of this machine, and those of them that are available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    amounts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return amounts["MemTotal"], amounts["MemAvailable"]


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's memory monitor is Linux's")
def test_a_trial_that_rays_own_memory_monitor_kills_goes_on_from_its_checkpoint_with_half(
    tmp_path: Path,
) -> None:
    """A real raylet, a real process that really holds the memory.

    A monitor sees the whole machine: where others take or free much of it meanwhile, this tells
    nothing.
    """
    total, free = memory()
    if free < 8 * STEP * 1.5:
        pytest.skip(f"needs {8 * STEP * 1.5 / 1e9:.0f} GB of free memory")
    threshold = (total - free + 3 * STEP) / total
    environment = {
        **os.environ,
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_memory_usage_threshold": f"{threshold:.4f}",
    }
    here = Path(__file__).parent
    wanted = tmp_path / "study.json"
    wanted.write_text(json.dumps(DEMAND))
    place = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, str(here / "hungry.py"), str(place), str(wanted)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    try:
        assert done.returncode == 0, done.stderr[-3000:]
        the_larger_alone_was_halved(place)
    except AssertionError:
        if abs(memory()[1] - free) > STEP:
            pytest.skip("others took or freed memory meanwhile, and a monitor sees all")
        raise


def the_larger_alone_was_halved(place: Path) -> None:
    ledger = read_ledger(place)
    large, small = ledger.trials[0], ledger.trials[1]
    assert large.state() == State.COMPLETED
    assert large.killed >= 1
    assert [row["micro_batch"] for row in large.history.values()] == [8, *2 * [large.micro_batch]]
    assert large.micro_batch in (4, 2, 1)
    assert list(large.history) == [1, 2, 3]
    assert small.state() == State.COMPLETED
    assert small.micro_batch == 1
    assert any("memory" in reason.lower() for reason in large.crashes)
