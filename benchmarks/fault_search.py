"""A search in a process of its own that can be hurt, and the account of what it then lost."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

import optuna
import psutil
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray._private import ray_constants
from ray.cluster_utils import Cluster

from spinlock.config import Config
from spinlock.data.generate import GenerateConfig, generate
from spinlock.errors import ArtifactError, SpinlockError
from spinlock.search.attempt import Assignment, reports
from spinlock.search.book import Book
from spinlock.search.checkpoints import newest_first, reports_in, trial_directory
from spinlock.search.cluster import DRIVER
from spinlock.search.ledger import EVENTS, Ledger, read_ledger
from spinlock.search.noa import NOA
from spinlock.search.preemption import Notice
from spinlock.search.replay import replay
from spinlock.search.sampler import Sampler
from spinlock.search.searcher import BookSearcher
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL, database_name
from spinlock.search.study import run
from spinlock.search.trial import Trial
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.trainer import Trainer

HERE = Path(__file__).resolve().parent
TRACE, PATIENCE, SMALL_DISK = "trace", 600, 64 << 20
EPOCHS = b'"event":"epoch"'
HEARD = {"COMPLETED": "COMPLETE", "FAILED": "FAIL"}  # the others are PRUNED, as a sampler counts
DATA = {
    **{"operators": 12, "seed": 3, "grid": 16, "frames": 9},
    "domain": {
        **{"kind": "cno", "dt": 0.1, "num_layers": {"kind": "integer", "low": 2, "high": 2}},
        "base_channels": {"kind": "integer", "low": 4, "high": 8},
    },
}
STUDY: dict[str, Any] = {
    **{"name": "faults", "seed": 4, "retries": 20},
    "searcher": {"kind": "tpe", "startup_trials": 4},
    "scheduler": {"kind": "asha", "grace_epochs": 2, "reduction_factor": 2},
    "guards": [{"kind": "commit_climb", "factor": 4}],
    "training": {
        **{"task": "noa", "batch_size": 2, "epochs": 5, "rollout": {"timesteps": 8}},
        "model": {"base_channels": 4, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
    },
    "space": {
        "optimizer.lr": {"log_uniform": [1e-4, 3e-2]},
        "loss.lambda_commit": {"log_uniform": [0.1, 3]},
    },
}


# Of every Ray that is started here, also of one for several nodes.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_memory_monitor_refresh_ms": "0"}
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, sys.path)])
# A run draws from torch's own generator, and so another one in this process would disturb it.
_COMPARING = Lock()
# Drivers are forked from a process that has all imported, which takes seconds.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["fault_search"])


def give_data(place: Path) -> None:
    """The dataset and the tokenizer of every search below `place`."""
    torch.set_num_threads(1)
    generate(GenerateConfig.model_validate(DATA), place / "data.h5")
    tokenizer = {
        **{"task": "vqvae", "data": {"path": str(place / "data.h5")}, "frames": 9, "epochs": 3},
        "model": {"hidden_dim": 16, "embedding_dim": 16},
    }
    run = Trainer(training_config(tokenizer, where="tokenizer"))
    train_and_export(run, place / "tokenizer")


class Traced(NOA):
    """A NOA whose trainer notes beside the data which epoch of which trial it begins, and where."""

    def build(self, config: Config) -> Any:
        run = self.own(config)
        return _Traced(super().build(config), run.data.path.parent / TRACE, run.optimizer.lr)


class _Traced:
    def __init__(self, trainer: Trainer, trace: Path, name: float) -> None:
        self._trainer, self._trace, self._name = trainer, trace, name
        self.save, self.restore = trainer.save, trainer.restore

    def epochs(self) -> Iterator[Any]:
        epochs = self._trainer.epochs()
        while self._trainer.state.epoch < self._trainer.config.epochs:
            with self._trace.open("a") as stream:
                stream.write(f"{os.getpid()} {self._name!r} {self._trainer.state.epoch + 1}\n")
            yield next(epochs)


def drive(place: Path, study: Study, resume: bool, address: str | None) -> None:
    """The search's driver: what a launch script does, with a traced trainable."""
    os.setsid()
    sys.stderr = (place / "stderr").open("a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    try:
        result = run(study, Traced(), place / "x", resume=resume, address=address, dashboard=False)
    except SpinlockError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    if result.ledger.broken:
        print(f"Error: {result.ledger.broken}", file=sys.stderr)
    sys.exit(0 if result.finished else 130)


def drive_alone(place: Path, study: Study, resume: bool, _: None) -> None:
    """The same without Ray: one trial after the other, in this process."""
    sys.stderr = (place / "stderr").open("a", buffering=1)
    torch.set_num_threads(1)
    trainable, experiment = Traced(), place / "x"

    def configured(trial: Trial) -> Config:
        return training_config(study.configuration(trial.parameters), where="alone")

    def assign(trial: Trial) -> dict[str, Any]:
        directory = trial_directory(experiment, trial.number)
        training = configured(trial).model_dump(mode="json")
        goals = study.goals
        return Assignment(trial.number, directory, training, trial.epochs, goals).pack()

    book = Book.open(
        experiment,
        study,
        trainable=trainable.name,
        facts={},
        reporting=lambda trial: trainable.reporting(configured(trial)),
        resume=resume,
    )
    (experiment / "trials").mkdir(exist_ok=True)
    sampler = Sampler.open(experiment, book.ledger)
    searcher = BookSearcher(book, sampler, concurrent=1, assign=assign)
    while isinstance(given := searcher.suggest("one"), dict):
        assignment = Assignment.unpack(given)
        for report in reports(trainable, assignment, Notice(), leads=True):
            verdict = book.report(assignment.number, report.epoch, report.metrics, report.stop)
            searcher.on_trial_result("one", {})
            if verdict is not None:
                break
        searcher.on_trial_complete("one")
    book.close()


@contextmanager
def full_disk(mount: Path | None) -> Iterator[None]:
    """A small disk of its own at `mount`, if any."""
    if mount is None:
        yield
        return
    mount.mkdir(parents=True)
    if mount.name == "trials":
        (mount.parent / "lock").touch()  # ours, to a search that would refuse a foreign directory
    options = ["-o", f"size={SMALL_DISK}", "tmpfs", str(mount)]
    subprocess.run(["mount", "-t", "tmpfs", *options], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@contextmanager
def own_cluster(wanted: bool) -> Iterator[Cluster | None]:
    """A head without CPUs and two nodes that may be lost, on loopback."""
    if not wanted:
        yield None
        return
    ray_constants.ENABLE_RAY_CLUSTER = False  # was read at the import
    head = {"num_cpus": 0, "include_dashboard": False, "resources": {DRIVER: 8}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def _sound(checkpoint: Path) -> bool:
    try:
        reports_in(checkpoint)
    except ArtifactError:
        return False
    return True


class OverError(Exception):
    """The driver has ended before what was waited for."""


class Search:
    """One search of `STUDY` in `place`, hurt at `moments`."""

    def __init__(
        self,
        place: Path,
        moments: random.Random,
        needs: str,
        cluster: Cluster | None,
        *,
        trials: int,
        concurrent: int,
    ) -> None:
        self.place, self.experiment = place, place / "x"
        self.injected = self.lost = self.failed = 0
        self.faults: list[str] = []
        self._moments, self._cluster = moments, cluster
        self._drive = drive_alone if needs == "alone" else drive
        self._kept = b""  # the whole lines of the log at the last fault
        execution = "ray_train" if "ray_train" in needs else "in_process"
        resources = {"execution": execution, "concurrent": concurrent}
        retries = 1 if needs in ("disk", "trials") else STUDY["retries"]
        self.database = place / "optuna.db" if needs == "database" else None
        training = STUDY["training"] | {
            "data": {"path": str(place / "data.h5")},
            "tokenizer": str(place.parent / "tokenizer"),
        }
        self.study = Study.model_validate(
            STUDY
            | {"trials": trials, "resources": resources, "training": training, "retries": retries}
            | ({"storage": f"sqlite:///{self.database}"} if self.database else {})
        )
        (place / TRACE).touch()

    @property
    def log(self) -> bytes:
        path = self.experiment / EVENTS
        written = path.read_bytes() if path.is_file() else b""
        return written[: written.rfind(b"\n") + 1]

    @property
    def said(self) -> str:
        """What the drivers have said so far."""
        return (self.place / "stderr").read_text()

    def start(self) -> None:
        """A driver, with --resume where the search has begun."""
        address = self._cluster.address if self._cluster is not None else None
        self._driver = _FORKS.Process(
            target=self._drive, args=(self.place, self.study, bool(self.log), address)
        )
        self._driver.start()

    def ended(self) -> int:
        """Wait for the driver's end; its exit code."""
        self._driver.join(PATIENCE)
        if self._driver.exitcode is None:
            raise TimeoutError("the driver did not end")
        return self._driver.exitcode

    def wait(self, done: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            if self._driver.exitcode is not None:
                raise OverError(f"the driver ended before {what}: {self.said[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.002)

    def pause(self, seconds: float) -> None:
        time.sleep(self._moments.uniform(0, seconds))

    def training(self) -> int:
        """Wait until some further epochs have begun, and a little; the process that trains."""
        trace = self.place / TRACE
        told, wanted = trace.read_text().count("\n"), self._moments.randint(1, 4)
        self.wait(lambda: trace.read_text().count("\n") >= told + wanted, "it trained on")
        self.pause(0.25)
        return int(trace.read_text().splitlines()[-1].split()[0])

    def saving(self) -> None:
        """Wait until a checkpoint is half written."""
        trials = self.experiment / "trials"
        self.wait(lambda: any(trials.glob("*/checkpoints/.*.partial")), "it saved")

    def actor(self, name: str) -> int:
        """The newest process of this search's Ray that runs an actor of this name."""
        found = [
            process.pid
            for process in psutil.Process(self._driver.pid).children(recursive=True)
            if name in " ".join(process.cmdline())
        ]
        assert found, f"no {name} runs"
        return max(found)

    def kill(self, pid: int) -> None:
        """SIGKILL of a process under the driver, which goes on by itself."""
        self._fault()
        os.kill(pid, signal.SIGKILL)

    def kill_driver(self, before_resume: Callable[[], None] = lambda: None) -> None:
        """SIGKILL of the driver, then something worse, then the command with --resume."""
        self._fault()
        self._driver.kill()
        self._driver.join()
        before_resume()
        self._check()
        self.start()

    def lose_node(self, process: int) -> None:
        """The one on which this process trains."""
        raylet = psutil.Process(process).ppid()
        self._fault()
        (node,) = (
            node
            for node in self._cluster.list_all_nodes()
            if node.all_processes["raylet"][0].process.pid == raylet
        )
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(num_cpus=1)

    def fill(self, disk: Path) -> None:
        """Leave no byte on a disk until the driver has said so and ended; then resume."""
        self._fault()
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as stream:
            try:
                while stream.write(bytes(4096)):
                    pass
            except OSError:
                pass
        if self.ended() == 0:  # it had nothing more to write
            self.injected -= 1
            raise OverError("the search was done")
        last = self.said.strip().splitlines()[-1]
        assert "No space left on device" in last, f"it did not say that the disk is full: {last}"
        filler.unlink()
        self._check()
        self.start()

    def twice_saved(self) -> list[Path]:
        """The newest checkpoint of each unfinished trial that has another, both of them sound."""
        trials = self.experiment / "trials"
        found = [
            newest_first(trials / f"{trial.number:05d}")
            for trial in read_ledger(self.experiment).unfinished
        ]
        return [kept[0] for kept in found if len(kept) > 1 and all(map(_sound, kept[:2]))]

    def damage(self) -> None:
        """Hurt the newest checkpoint of each trial that was saved twice."""
        for newest in self.twice_saved():
            path = self._moments.choice([p for p in newest.rglob("*") if p.is_file()])
            content = bytearray(path.read_bytes())
            at = self._moments.randrange(len(content))
            if self._moments.random() < 0.3:
                content = content[:at]
            else:
                content[at] ^= 0x40
            path.write_bytes(content)

    def cut_journal(self) -> None:
        path = self.experiment / JOURNAL
        content = path.read_bytes()
        path.write_bytes(content[: self._moments.randrange(len(content))])

    def lock_database(self) -> None:
        """Another process holds the whole database for itself, for longer than anyone waits."""
        self._fault()
        hold = sqlite3.connect(self.database, isolation_level=None)
        hold.execute("BEGIN EXCLUSIVE")
        self.wait(lambda: "cannot be used" in self.said, "it said that the database is gone")
        hold.execute("ROLLBACK")
        hold.close()

    def lose_database(self) -> None:
        """A directory in its place: the resume is refused; then it is lost, or back."""
        hidden = self.database.with_suffix(".hidden")
        self.database.rename(hidden)
        self.database.mkdir()
        self.start()
        assert self.ended() == 1, "it went on without its database"
        assert "cannot be used" in self.said.splitlines()[-1], self.said[-500:]
        self.database.rmdir()
        if self._moments.random() < 0.5:
            hidden.rename(self.database)

    def finish(self) -> None:
        """Wait for the end, and hold what the search left against what must be."""
        assert self.ended() == 0, self.said[-2000:]
        self._check()
        ledger = read_ledger(self.experiment)
        assert list(ledger.trials) == list(range(self.study.trials)), "trials are missing"
        assert not ledger.unfinished, "trials are unfinished"
        self.failed = sum(str(t.state()) == "FAILED" for t in ledger.trials.values())
        found = replay(self.experiment, {"noa": Traced()})
        assert not found.differences, found.differences
        with _COMPARING:
            self._compare(ledger)
        self._agree(ledger)

    def heard(self, ledger: Ledger) -> list[optuna.trial.FrozenTrial]:
        """The trials of Optuna's study, as its storage has them."""
        storage: Any = f"sqlite:///{self.database}"
        name = database_name(ledger)
        if self.database is None:
            storage = JournalStorage(JournalFileBackend(str(self.experiment / JOURNAL)))
            name = self.study.name
        return optuna.load_study(study_name=name, storage=storage).trials

    def repeated(self) -> tuple[int, int]:
        """Epochs begun again: in all, and the most of one trial after one fault."""
        begun: set[str] = set()
        again: Counter[tuple[int, str]] = Counter()
        fault = 0
        for line in (self.place / TRACE).read_text().splitlines():
            if line == "fault":
                fault += 1
                continue
            epoch = line.partition(" ")[2]
            if epoch in begun:
                again[fault, epoch.split()[0]] += 1
            begun.add(epoch)
        return sum(again.values()), max(again.values(), default=0)

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self._driver.exitcode is None:
            for process in psutil.Process(self._driver.pid).children(recursive=True):
                process.kill()
            self._driver.kill()
            self._driver.join()
        shutil.rmtree(self.experiment, ignore_errors=True)

    def _fault(self) -> None:
        self._check()
        self.injected += 1
        self._kept = self.log
        with (self.place / TRACE).open("a") as stream:
            stream.write("fault\n")

    def _check(self) -> None:
        """The log still begins with all that was acknowledged at the last fault."""
        now = self.log
        if not now.startswith(self._kept):
            self.lost += max(1, self._kept.count(EPOCHS) - now.count(EPOCHS))
            raise AssertionError("the log has lost what was acknowledged")

    def _compare(self, ledger: Ledger) -> None:
        """Every number is that of training straight through."""
        torch.set_num_threads(1)  # of this thread
        for trial in ledger.trials.values():
            alone = training_config(self.study.configuration(trial.parameters), where="alone")
            reports = Trainer(alone).epochs()
            for epoch, metrics in trial.history.items():
                straight = next(reports).metrics
                for name, value in metrics.items():
                    if name.startswith(("train/", "val/")):
                        assert value == straight[name], f"trial {trial.number} epoch {epoch} {name}"

    def _agree(self, ledger: Ledger) -> None:
        """Optuna's study has the same trials with the same fates."""
        trials = self.heard(ledger)
        assert len(trials) == len(ledger.trials), "Optuna has other trials"
        for ours, theirs in zip(ledger.trials.values(), trials, strict=True):
            expected = HEARD.get(ours.state(), "PRUNED")
            assert theirs.params == ours.parameters, f"trial {ours.number} has other parameters"
            assert theirs.state.name == expected, f"trial {ours.number} is {theirs.state.name}"
            assert theirs.user_attrs["reason"] == ours.verdict.sentence
