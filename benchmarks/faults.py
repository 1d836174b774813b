"""What a search loses when something dies under it: fault drills at random moments.

    python benchmarks/faults.py [--seed 0] [--at-once 2]
    python benchmarks/faults.py --once --only driver --only disk

Each drill is a search of a small real NOA in a process of its own, which is hurt several times at
moments that a seed draws, and resumed with --resume where its driver has ended. Whoever trains
notes each epoch before it begins it, so that what is trained twice is counted. After each fault:
the log must begin with what was acknowledged before it. At the end: the search has ended by
itself, every number equals training straight through, the replay of the log has no differences,
and Optuna's study agrees with the ledger on every trial. One line per drill; writes
benchmarks/results/faults.md. Needs Linux, and root for the disks that are filled.
"""

import os
import platform
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated, Any

import typer
from fault_search import OverError, Search, full_disk, give_data, own_cluster
from psutil import NoSuchProcess

from spinlock.artifact import provenance
from spinlock.files import atomic_file

RESULT = Path(__file__).parent / "results" / "faults.md"
Drill = Callable[[Search, int], None]


def trial_process(search: Search, times: int) -> None:
    """SIGKILL of the process that trains, in the middle of an epoch."""
    for _ in range(times):
        search.kill(search.training())


def train_worker(search: Search, times: int) -> None:
    """The same of a worker of a Ray Train group."""
    trial_process(search, times)


def train_helpers(search: Search, times: int) -> None:
    """SIGKILL of the desk of a Ray Train group, and of its workers' synchronization."""
    for at in range(times):
        search.training()
        search.kill(search.actor(("Desk", "SynchronizationActor")[at % 2]))


def train_trial(search: Search, times: int) -> None:
    """SIGKILL of the Tune actor that leads a Ray Train group."""
    for _ in range(times):
        search.training()
        search.kill(search.actor(f"ray::{search.experiment.name} trial"))


def driver(search: Search, times: int) -> None:
    """SIGKILL of the study's driver, anywhere."""
    for _ in range(times):
        search.training()
        search.pause(0.5)
        search.kill_driver()


def driver_alone(search: Search, times: int) -> None:
    """SIGKILL of a driver that trains in its own process, without Ray, anywhere."""
    driver(search, times)


def driver_while_saving(search: Search, times: int) -> None:
    """SIGKILL of the study's driver while a checkpoint is being written."""
    for _ in range(times):
        search.training()
        search.saving()
        search.kill_driver()


def node(search: Search, times: int) -> None:
    """A node of the cluster lost with all that runs on it; another one joins."""
    for _ in range(times):
        search.lose_node(search.training())


def train_node(search: Search, times: int) -> None:
    """The node of a Ray Train group's worker lost; another one joins."""
    node(search, times)


def checkpoint(search: Search, times: int) -> None:
    """The driver killed, and the newest checkpoint of every unfinished trial damaged."""
    for _ in range(times):
        search.training()
        search.wait(search.twice_saved, "a trial had two checkpoints")
        search.kill_driver(before_resume=search.damage)


def disk(search: Search, times: int) -> None:
    """The disk of the experiment, log and all, is full; then there is room again."""
    for _ in range(times):
        search.training()
        search.fill(search.experiment)


def checkpoint_disk(search: Search, times: int) -> None:
    """The disk of the checkpoints alone is full; then there is room again."""
    for _ in range(times):
        search.training()
        search.fill(search.experiment / "trials")


def journal(search: Search, times: int) -> None:
    """The driver killed, and Optuna's journal cut at a random byte, or lost."""
    for _ in range(times):
        search.training()
        search.kill_driver(before_resume=search.cut_journal)


def database(search: Search, times: int) -> None:
    """The study's database answers nobody while the search runs."""
    for _ in range(times):
        search.training()
        search.lock_database()


def no_database(search: Search, times: int) -> None:
    """The driver killed, and the database not there when the search is resumed, or lost."""
    for _ in range(times):
        search.training()
        search.kill_driver(before_resume=search.lose_database)


# Fault, searches, times in each; where it needs them: execution, storage, a disk of its own.
DRILLS: tuple[tuple[Drill, int, int, str], ...] = (
    (driver_alone, 4, 8, "alone"),
    (node, 1, 4, "nodes"),
    (train_node, 1, 2, "ray_train nodes"),
    (driver, 1, 5, ""),
    (trial_process, 1, 5, ""),
    (checkpoint, 1, 4, ""),
    (checkpoint_disk, 1, 1, "trials"),
    (disk, 1, 1, "disk"),
    (train_worker, 1, 1, "ray_train"),
    (train_helpers, 1, 2, "ray_train"),
    (train_trial, 1, 1, "ray_train"),
    (database, 1, 1, "database"),
    (no_database, 1, 2, "database"),
    (journal, 1, 2, ""),
    (driver_while_saving, 1, 3, ""),
)


def main(
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A drill by its name.")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Each fault once, in a search of 4 trials.")
    ] = False,
    at_once: Annotated[int, typer.Option(min=1, help="So many searches.")] = 2,
) -> None:
    told, facts = Lock(), provenance()  # before the first row makes the checkout another
    rows = [Row(drill) for drill, *_ in DRILLS if not only or drill.__name__ in only]
    with (
        TemporaryDirectory(prefix="faults-") as scratch,
        ThreadPoolExecutor(at_once) as together,
    ):
        give_data(Path(scratch))

        def one(row: Row, times: int, needs: str, index: int) -> None:
            place = Path(scratch) / f"{row.name}-{index}"
            moments = random.Random(f"{seed} {place.name}")
            size = {"trials": 4, "concurrent": 1} if once else {"trials": 8, "concurrent": 2}
            if "ray_train" in needs:
                size["concurrent"] = 1  # each has three processes
            row.add(run(row.drill, times, needs, place, moments, size))
            with told:
                print(row, flush=True)
                if not only and not once:
                    write(rows, seed, facts)

        wanted = [
            (row, 1 if once else times, needs, index)
            for row in rows
            for drill, searches, times, needs in DRILLS
            if drill is row.drill
            for index in range(1 if once else searches)
        ]
        begun = [together.submit(one, *each) for each in wanted if "nodes" not in each[2]]
        for each in wanted:
            if "nodes" in each[2]:  # which Ray starts from a main thread alone
                one(*each)
        for search in begun:
            search.result()
    if any(row.faults for row in rows):
        sys.exit(1)


def run(
    drill: Drill,
    times: int,
    needs: str,
    place: Path,
    moments: random.Random,
    size: dict[str, int],
) -> Search:
    """One search under one kind of fault; what it lost is in its `faults`."""
    place.mkdir()
    (place / "data.h5").symlink_to(place.parent / "data.h5")
    disk = {"disk": place / "x", "trials": place / "x" / "trials"}.get(needs)
    with full_disk(disk), own_cluster("nodes" in needs) as cluster:
        search = Search(place, moments, needs, cluster, **size)
        try:
            search.start()
            with suppress(OverError):  # the search may end before it was hurt so often
                drill(search, times)
            search.finish()
        except (AssertionError, NoSuchProcess, TimeoutError) as error:
            search.faults.append(f"{type(error).__name__}: {error}")
        finally:
            search.end()
        return search


class Row:
    """What is told of one kind of fault, over its searches."""

    def __init__(self, drill: Drill) -> None:
        self.drill, self.name, self.what = drill, drill.__name__, str(drill.__doc__)
        self.times = self.survived = self.repeated = self.most = self.lost = self.failed = 0
        self.faults: list[str] = []

    def add(self, search: Search) -> None:
        self.times += search.injected
        self.survived += 0 if search.faults else search.injected
        total, most = search.repeated()
        self.repeated += total
        self.most = max(self.most, most)
        self.lost += search.lost
        self.failed += search.failed
        self.faults += search.faults

    def __str__(self) -> str:
        told = "".join(f"\n    {fault}" for fault in self.faults)
        return (
            f"| {self.what.rstrip('.')} | {self.times} | {self.survived} | {self.repeated} | "
            f"{self.most} | {self.lost} | {self.failed} |{told}"
        )


def write(rows: list[Row], seed: int, facts: dict[str, Any]) -> None:
    total = [sum(getattr(row, name) for row in rows) for name in ("times", "survived", "lost")]
    lines = [
        "# Fault drills",
        "",
        f"Made by `python benchmarks/faults.py --seed {seed}`, commit {facts['commit']}, "
        f"{facts['created'][:10]}.",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, no GPU; shared with other work.",
        "",
        f"{total[0]} faults at moments drawn by the seed, {total[1]} of them survived, {total[2]} "
        "acknowledged epochs lost. *Survived*: the search ended by itself, after the same command "
        "with `--resume` where its driver had ended; no trial was missing or doubled; every metric "
        "equals training straight through; replaying the log gives no difference in suggestions, "
        "rungs and verdicts; Optuna's study agrees on every trial. *Repeated*: epochs begun more "
        "than once, in all, and the most of one trial after one fault. *Failed*: trials that were "
        "given up, each with its cause in the log.",
        "",
        "| fault | times | survived | epochs repeated | most of a trial | acknowledged lost | "
        "failed |",
        "|---|---|---|---|---|---|---|",
        *(str(row) for row in rows),
    ]
    with atomic_file(RESULT) as beside:
        beside.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
