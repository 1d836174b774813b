"""The checkpoints of one trial, each with every report so far beside the trainer's state.

    <trial>/checkpoints/00003/trainer/      what Trainer.save wrote after epoch 3
    <trial>/checkpoints/00003/reports.json  the reports up to that of epoch 3
    <trial>/checkpoints/00003/sums.json     the fingerprint of each of these files
    <trial>/checkpoints/00003+/             the same on the way to the next report, of a trial that
                                            had to leave its machine

Numbered directories appear whole by one rename, so a kill at any moment leaves an older one.
Kept are the last two (should the newest be damaged) and those that the trial may stand for, with
or without its newest report, which the driver may not have heard. So the best epoch of a trial,
every point of a Pareto front and whatever a paused trial goes on from are always on disk. A file
whose fingerprint is another is damaged: torch itself loads weights in which bits have flipped
without a word. Because the reports lie in the checkpoint, a restarted trial can tell again what
the driver may not have heard.
"""

import fcntl
import json
import math
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spinlock.errors import ArtifactError, SearchError
from spinlock.files import atomic_directory, fingerprint
from spinlock.search.pareto import best_epoch
from spinlock.search.rules import Stop
from spinlock.search.space import Objective
from spinlock.search.trainable import ReportLike, TrainerLike

SUMS = "sums.json"
_MIDWAY = "+"


@dataclass(frozen=True)
class Report:
    """One epoch as it travels and is stored."""

    epoch: int
    metrics: dict[str, float]
    stop: Stop | None = None

    @classmethod
    def of(cls, report: ReportLike) -> "Report":
        stop = report.stop
        return cls(
            report.epoch,
            {name: float(value) for name, value in report.metrics.items()},
            None if stop is None else Stop(stop.kind, stop.sentence),
        )


def trial_directory(experiment: Path, number: int) -> Path:
    """Where a trial keeps its things: `<experiment>/trials/00007`."""
    return experiment / "trials" / f"{number:05d}"


def checkpoint_directory(trial: Path, epoch: int) -> Path:
    """The checkpoint after `epoch`."""
    return trial / "checkpoints" / f"{epoch:05d}"


def save(
    trial: Path, trainer: TrainerLike, reports: Sequence[Report], objectives: Sequence[Objective]
) -> None:
    """Keep the trainer after the last of `reports`, and drop what is neither recent nor best."""
    epoch = reports[-1].epoch
    _write(checkpoint_directory(trial, epoch), trainer, reports)
    keep = {report.epoch for report in reports[-2:]}
    for known in (reports, reports[:-1]):
        best = best_epoch({report.epoch: report.metrics for report in known}, objectives)
        keep |= {best[0]} if best else set()
    for found in _epochs(trial):
        if found not in keep and found < epoch:
            shutil.rmtree(checkpoint_directory(trial, found))
    for overtaken in (trial / "checkpoints").glob(f"*{_MIDWAY}"):
        shutil.rmtree(overtaken)


def save_midway(trial: Path, trainer: TrainerLike, reports: Sequence[Report]) -> None:
    """Keep the trainer between two reports, of which the last of `reports` was the former."""
    after = checkpoint_directory(trial, reports[-1].epoch if reports else 0)
    _write(after.with_name(after.name + _MIDWAY), trainer, reports)


def reports_in(checkpoint: Path) -> list[Report]:
    """The reports stored in a checkpoint. Raises ArtifactError when any file of it is damaged."""
    path = checkpoint / SUMS
    try:
        kept, found = json.loads(path.read_text()), _sums(checkpoint)
        if kept != found:
            changed = sorted(name for name, _ in kept.items() ^ found.items())
            raise ArtifactError(f"{checkpoint}: {changed[0]} is damaged or missing.")
        path = checkpoint / "reports.json"
        return [_load(report) for report in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: missing or damaged: {error}.") from None


def newest_first(trial: Path) -> list[Path]:
    """Checkpoints of a trial, the newest first."""
    root = trial / "checkpoints"
    whole = [checkpoint_directory(trial, epoch) for epoch in _epochs(trial)]
    return sorted([*whole, *root.glob(f"*{_MIDWAY}")], reverse=True)  # 00003+ is after 00003


def size(trial: Path) -> int:
    """Bytes of all checkpoints of a trial; of one that is being trained, at this moment."""
    total = 0
    for path in (trial / "checkpoints").rglob("*"):
        with suppress(FileNotFoundError):  # dropped meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


@contextmanager
def exclusive(trial: Path, *, patience: int = 60) -> Iterator[None]:
    """Hold the trial's directory: one process trains a trial at a time.

    What a killed writer left half is removed, as only who holds the directory may.

    After a driver was killed its trials' processes take some seconds to notice; whoever takes
    the trial up waits for them. Raises SearchError after `patience` seconds, and on a node where
    the search that made the directory's parent is not seen: what is saved there would be lost.
    """
    try:
        trial.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise SearchError(
            f"{trial.parent}: not there on node {socket.gethostname()}. The experiment must be on "
            "storage that all nodes share."
        ) from None
    deadline = time.monotonic() + patience
    with (trial / "lock").open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SearchError(
                        f"{trial}: another process still trains this trial after "
                        f"{patience} s. Is its search running elsewhere?"
                    ) from None
                time.sleep(0.1)
        for partial in (trial / "checkpoints").glob(".*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield


def _write(path: Path, trainer: TrainerLike, reports: Sequence[Report]) -> None:
    with atomic_directory(path) as beside:
        trainer.save(beside / "trainer")
        (beside / "reports.json").write_text(json.dumps([_dump(r) for r in reports]))
        (beside / SUMS).write_text(json.dumps(_sums(beside)))


def _sums(checkpoint: Path) -> dict[str, str]:
    return {
        str(path.relative_to(checkpoint)): fingerprint(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != SUMS
    }


def _epochs(trial: Path) -> list[int]:
    root = trial / "checkpoints"
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdigit()) if root.is_dir() else []


def _dump(report: Report) -> dict[str, object]:
    stop = report.stop
    return {
        "epoch": report.epoch,
        "metrics": {k: v if math.isfinite(v) else str(v) for k, v in report.metrics.items()},
        "stop": None if stop is None else {"kind": stop.kind, "sentence": stop.sentence},
    }


def _load(saved: dict[str, object]) -> Report:
    metrics, stop = saved["metrics"], saved["stop"]
    if not isinstance(metrics, dict):
        raise ValueError("metrics is not a mapping")
    return Report(
        int(str(saved["epoch"])),
        {str(k): float(v) for k, v in metrics.items()},
        Stop(str(stop["kind"]), str(stop["sentence"])) if isinstance(stop, dict) else None,
    )
