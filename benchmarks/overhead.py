"""What a search costs beside its training.

    python benchmarks/overhead.py --work DIRECTORY [--share 0.1]

Trials that sleep through their epochs, so that all else is overhead: a search's wall time over the
training that it did, for trials of 20 s and of 200 s. Then thousands of trials whose losses come
out of a formula: trials per second, and the driver's CPU time and memory over time. Ours with both
executions, and plain Tune with its ASHA and OptunaSearch, one after the other, each in a process
and on a Ray of its own. Last our decisions alone, without Ray, at so many trials. Takes an hour;
--share makes lengths and counts smaller, and rows that stand in --work are not measured again.
Writes benchmarks/results/overhead.md.
"""

import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import optuna
import psutil
import ray
import typer
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from spinlock.artifact import provenance
from spinlock.config import Config
from spinlock.files import atomic_file
from spinlock.search.book import Book
from spinlock.search.checkpoints import Report
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.study import run

RESULT = Path(__file__).parent / "results" / "overhead.md"
CONCURRENT, EPOCHS = 2, 10
LENGTHS, TRIALS = (20.0, 200.0), 4
MANY = (1000, 10_000)


class Table(Config):
    """A training whose loss is a formula; `seconds` are slept in each epoch."""

    x: float = 0.5
    y: float = 0.1
    epochs: int = EPOCHS
    seconds: float = 0.0


def loss(x: float, y: float, epoch: int) -> float:
    """A valley in two settings that training descends into."""
    return (x - 0.3) ** 2 + math.log10(y / 0.01) ** 2 / 10 + 1 / epoch


class TableTrainer:
    """Sleeps and reports; a checkpoint is an empty directory."""

    def __init__(self, config: Table) -> None:
        self._config = config

    def epochs(self) -> Iterator[Report]:
        for epoch in range(1, self._config.epochs + 1):
            time.sleep(self._config.seconds)
            value = loss(self._config.x, self._config.y, epoch)
            yield Report(epoch, {"val/traj": value, "seconds": self._config.seconds})

    def save(self, directory: Path) -> None:
        directory.mkdir()

    def restore(self, directory: Path) -> None:
        raise NotImplementedError("nothing is taken up again here")


class Tabulated:
    """As much of a Trainable as a search takes."""

    name = "table"
    model = Table
    metrics = ("val/traj", "seconds")
    optional: ClassVar[dict[str, str]] = {}
    columns = ("val/traj",)
    weighed: ClassVar[dict[str, tuple[str, ...]]] = {}

    def objection(self, _guard: object) -> None:
        return None

    def reporting(self, config: Table) -> Sequence[int]:
        return range(1, config.epochs + 1)

    def build(self, config: Table) -> TableTrainer:
        return TableTrainer(config)

    def facts(self, _config: Table) -> dict[str, Any]:
        return {}


def study(trials: int, seconds: float, execution: str, searcher: str, scheduler: str) -> Study:
    return Study.model_validate(
        {
            "name": "overhead",
            "trials": trials,
            "resources": {"execution": execution, "concurrent": CONCURRENT},
            "searcher": {"kind": searcher},
            "scheduler": {"kind": scheduler},
            "training": {"seconds": seconds / EPOCHS},
            "space": {"x": {"uniform": [0, 1]}, "y": {"log_uniform": [1e-4, 1]}},
        }
    )


class Watch:
    """The driver's CPU time and memory, and the time, at every tenth of the trials that began."""

    def __init__(self, trials: int) -> None:
        self._step = max(1, trials // 10)
        self._process = psutil.Process()
        self._begun, self._cpu = time.perf_counter(), time.process_time()
        self.seen: list[tuple[int, float, float, float]] = []

    def look(self, trials: int) -> None:
        if trials % self._step == 0 and (not self.seen or self.seen[-1][0] != trials):
            memory = self._process.memory_info().rss / 2**20
            now, cpu = time.perf_counter() - self._begun, time.process_time() - self._cpu
            self.seen.append((trials, now, cpu, memory))

    def row(self, name: str) -> str:
        """Trials/s and CPU of the second and of the last tenth, and memory at each."""
        (n0, t0, c0, _), (n1, t1, c1, _), *_, (n8, t8, c8, _), (n9, t9, c9, _) = self.seen
        return (
            f"| {name} | {n9} | {n9 / t9:.0f} | {(n1 - n0) / (t1 - t0):.0f} | "
            f"{(n9 - n8) / (t9 - t8):.0f} | {1000 * (c1 - c0) / (n1 - n0):.1f} | "
            f"{1000 * (c9 - c8) / (n9 - n8):.1f} | {' '.join(f'{m:.0f}' for *_, m in self.seen)} |"
        )


def ours(trials: int, seconds: float, execution: str, searcher: str, scheduler: str) -> Any:
    """A search of ours: wall seconds, seconds of training, and what was watched."""
    wanted = study(trials, seconds, execution, searcher, scheduler)
    trainable: Any = Tabulated()
    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as silence:
        watch = Watch(trials)
        begun = time.perf_counter()
        result = run(
            wanted,
            trainable,
            Path(directory) / "search",
            dashboard=False,
            console=_Watched(watch, file=silence),
        )
        wall = time.perf_counter() - begun
    epochs = result.ledger.epochs
    return wall, epochs * seconds / EPOCHS, watch


class _Watched(Console):
    """The search's console, which hears of every trial that begins."""

    def __init__(self, watch: Watch, **options: Any) -> None:
        super().__init__(**options)
        self._watch, self._begun = watch, 0

    def print(self, *objects: Any, **_: Any) -> None:
        if objects and ": started" in str(objects[0]):
            self._begun += 1
            self._watch.look(self._begun)


class _TuneWatch(tune.Callback):  # type: ignore[misc]
    def __init__(self, watch: Watch) -> None:
        self.watch, self._begun, self.epochs = watch, 0, 0

    def on_trial_start(self, **_: Any) -> None:
        self._begun += 1
        self.watch.look(self._begun)

    def on_trial_result(self, **_: Any) -> None:
        self.epochs += 1

    def __getstate__(self) -> dict[str, Any]:
        return {}


def stock(trials: int, seconds: float, reuse: bool, searcher: str, scheduler: str) -> Any:
    """Plain Tune with its own ASHA and OptunaSearch."""
    watch = Watch(trials)
    callback = _TuneWatch(watch)
    sampler = optuna.samplers.RandomSampler(0) if searcher == "random" else None
    options = {"metric": "loss", "mode": "min"}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        ray.init(
            address="local", num_cpus=CONCURRENT, include_dashboard=False, logging_level="ERROR"
        )
        tune.Tuner(
            partial(_train, seconds=seconds / EPOCHS),
            param_space={"x": tune.uniform(0, 1), "y": tune.loguniform(1e-4, 1)},
            tune_config=tune.TuneConfig(
                num_samples=trials,
                max_concurrent_trials=CONCURRENT,
                reuse_actors=reuse,
                search_alg=OptunaSearch(sampler=sampler, **options),
                scheduler=ASHAScheduler(max_t=EPOCHS, reduction_factor=3, **options)
                if scheduler == "asha"
                else None,
            ),
            run_config=tune.RunConfig(storage_path=directory, callbacks=[callback], verbose=0),
        ).fit()
        wall = time.perf_counter() - begun
        ray.shutdown()
    return wall, callback.epochs * seconds / EPOCHS, watch


def _train(config: dict[str, float], seconds: float) -> None:
    for epoch in range(1, EPOCHS + 1):
        time.sleep(seconds)
        tune.report({"loss": loss(config["x"], config["y"], epoch)})


def decisions(trials: int, searcher: str, scheduler: str) -> str:
    """Milliseconds for a trial of asking, judging and telling, at the last tenth of the trials."""
    wanted = study(trials, 0, "in_process", searcher, scheduler)
    with tempfile.TemporaryDirectory() as directory:
        experiment = Path(directory) / "search"
        book = Book.open(
            experiment,
            wanted,
            trainable="table",
            facts={},
            reporting=lambda _: range(1, EPOCHS + 1),
            resume=False,
        )
        sampler = Sampler.open(experiment, book.ledger)
        spent = {"ask": 0.0, "judge": 0.0, "tell": 0.0}
        while len(book.ledger.trials) < trials:
            if len(book.ledger.trials) == trials - trials // 10:
                spent = dict.fromkeys(spent, 0.0)
            begun = time.perf_counter()
            values = sampler.ask(len(book.ledger.trials))
            spent["ask"] += time.perf_counter() - begun
            trial = book.suggested(values)
            for epoch in range(1, EPOCHS + 1):
                value = loss(float(values["x"]), float(values["y"]), epoch)
                begun = time.perf_counter()
                verdict = book.report(trial.number, epoch, {"val/traj": value}, None)
                judged = time.perf_counter()
                sampler.tell(trial)
                spent["judge"] += judged - begun
                spent["tell"] += time.perf_counter() - judged
                if verdict is not None:
                    break
    each = [f"{1000 * seconds / (trials // 10):.1f}" for seconds in spent.values()]
    return f"| {searcher}, {scheduler} | {trials} | {' | '.join(each)} |"


def stretched(name: str, search: Callable[..., Any], length: float) -> str:
    wall, trained, _ = search(TRIALS, length, searcher="tpe", scheduler="none")
    over = wall * CONCURRENT / trained - 1
    return f"| {name} | {length:g} s | {wall:.1f} s | {trained:.0f} s | {over:.1%} |"


def counted(name: str, search: Callable[..., Any], count: int, searcher: str) -> str:
    *_, watch = search(count, 0, searcher=searcher, scheduler="asha")
    return watch.row(f"{name}, {searcher}")


def tables(share: float) -> list[dict[str, Callable[[], str]]]:
    """The rows of each table by their names, each with what measures it."""
    plain, here = partial(stock, reuse=False), partial(ours, execution="in_process")
    reused = partial(stock, reuse=True)
    long = {
        f"{name} {share * length:g} s": partial(stretched, name, search, share * length)
        for length in LENGTHS
        for name, search in (
            ("plain Tune", plain),
            ("ours, ray_train", partial(ours, execution="ray_train")),
            ("ours, in_process", here),
        )
    }
    few, many = (round(share * count) for count in MANY)
    counts = {
        f"{name} {count}": partial(counted, name, search, count, searcher)
        for count, searcher in ((few, "tpe"), (many, "random"))  # TPE's time grows with the trials
        for name, search in (("plain Tune, processes reused", reused), ("ours, in_process", here))
    }
    decided = {
        f"{searcher} {count}": partial(decisions, count, searcher, "asha")
        for count in (few, many)
        for searcher in ("random", "tpe")
    }
    return [long, counts, decided]


def _with_commit(measured: str) -> str:
    commit, row = measured.split("\n")
    return f"{row} {commit[:7]} |"


def main(
    work: Annotated[Path, typer.Option(help="Where finished rows are kept.")],
    share: Annotated[float, typer.Option(help="Of lengths and counts.")] = 1.0,
    only: Annotated[str | None, typer.Option(help="Measure one row, by its name.")] = None,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    wanted = tables(share)
    measured = {name: measure for table in wanted for name, measure in table.items()}
    if only is not None:
        commit = provenance()["commit"]
        with atomic_file(work / f"{only}.txt") as beside:
            beside.write_text(f"{commit}\n{measured[only]()}", encoding="utf-8")
        return
    for name in measured:
        if not (work / f"{name}.txt").exists():  # in a process that no other search has changed
            again = [sys.executable, __file__, "--work", str(work), "--share", str(share)]
            subprocess.run([*again, "--only", name], check=True)
        print((work / f"{name}.txt").read_text(encoding="utf-8"), flush=True)
    rows, counts, decided = (
        [_with_commit((work / f"{name}.txt").read_text()) for name in table] for table in wanted
    )
    lines = [
        "# What a search costs beside its training",
        "",
        f"Made by `python benchmarks/overhead.py`, {provenance()['created'][:10]}, on "
        f"{platform.machine()}, {os.cpu_count()} cores, Ray {ray.__version__}. Rows are measured "
        "one by one, each at its commit.",
        "",
        f"{TRIALS} trials of {EPOCHS} epochs that sleep, {CONCURRENT} at a time; the start of Ray "
        "is part of the wall time. More is what the wall time, times two, exceeds the training by.",
        "",
        "| | a trial | wall | training | more | commit |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Trials of {EPOCHS} epochs out of a formula, {CONCURRENT} at a time, ASHA. Early and late "
        "are the second and the last tenth of the trials; CPU and memory are the driver's. Ours "
        "has every epoch on disk before it counts, and a checkpoint of it, and Optuna's journal; "
        "plain Tune the files of its own loggers, its snapshots, and Optuna in memory.",
        "",
        "| | trials | trials/s | early | late | CPU ms a trial, early | late | MiB at each tenth | "
        "commit |",
        "|---|---|---|---|---|---|---|---|---|",
        *counts,
        "",
        "Our decisions alone, ms a trial over the last tenth of so many: to ask the sampler, to "
        "judge and record the epochs, to tell Optuna.",
        "",
        "| | trials | ask | judge | tell | commit |",
        "|---|---|---|---|---|---|",
        *decided,
    ]
    with atomic_file(RESULT) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
