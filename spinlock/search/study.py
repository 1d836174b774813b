"""A search, run: the only place that builds a Tuner.

A killed or interrupted search is resumed from its own log with a new Tuner: unfinished trials
are handed out again under their numbers, from their newest checkpoints, then new ones follow.
"""

import fcntl
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from rich.console import Console

from spinlock.config import parse
from spinlock.errors import SearchError
from spinlock.files import own_directory, refuse_foreign
from spinlock.search import cluster, nodes
from spinlock.search.book import Book
from spinlock.search.check import check
from spinlock.search.checkpoints import trial_directory
from spinlock.search.execution import Assignment, in_process, ray_train
from spinlock.search.front import draw_front
from spinlock.search.gauges import Gauges
from spinlock.search.ledger import EVENTS, Ledger, Trial
from spinlock.search.report import Progress
from spinlock.search.sampler import JOURNAL, Sampler
from spinlock.search.scheduler import BookScheduler, StartedCallback
from spinlock.search.searcher import BookSearcher
from spinlock.search.space import Resources, Study
from spinlock.search.tables import write_tables
from spinlock.search.trainable import Trainable

_MEMORY_KILLS = 3


@dataclass(frozen=True)
class StudyResult:
    """What a session left: `finished` is False after Ctrl-C, and the search can be resumed."""

    experiment: Path
    ledger: Ledger
    finished: bool


def run(
    study: Study,
    trainable: Trainable,
    experiment: Path,
    *,
    resume: bool = False,
    address: str | None = None,
    dashboard: bool = True,
    share: int = 1,
    console: Console | None = None,
) -> StudyResult:
    """Search in directory `experiment`, on a Ray of our own or the one at `address`.

    Of `share` searches that run there at once, each takes its part of the room for trials.

    The first Ctrl-C ends the session in good order; trials under way are resumed later. Raises
    SearchError when the directory holds a search and `resume` is not asked for, when the study
    differs from the one that was begun, when another driver is at it, or when a node of the Ray
    at `address` does not see the same files.
    """
    console = console or Console(stderr=True)
    check(study, trainable, where=study.name)
    experiment = experiment.resolve()
    with _alone(experiment):
        first = study.configuration(study.corner)
        base = parse(trainable.model, first, where=study.name)

        def reporting(trial: Trial) -> Sequence[int]:
            values = study.configuration(trial.parameters)
            config = parse(trainable.model, values, where=f"trial {trial.number}")
            return trainable.reporting(config)

        facts = trainable.facts(base)
        book = Book.open(
            experiment,
            study,
            trainable=trainable.name,
            facts=facts,
            reporting=reporting,
            resume=resume,
        )
        sampler = Sampler.open(experiment, book.ledger)
        trial_directory(experiment, 0).parent.mkdir(exist_ok=True)
        try:
            if book.ledger.unfinished or book.ledger.left:
                with (
                    cluster.connect(
                        study.resources, address=address, dashboard=dashboard, share=share
                    ) as ray_,
                    Progress(
                        console,
                        columns=trainable.columns,
                        epochs=trainable.reporting(base)[-1],
                    ) as progress,
                ):
                    if address is not None:
                        nodes.require_shared(experiment, trainable, base, facts)
                    if ray_.dashboard is not None:
                        console.print(f"Ray dashboard: {ray_.dashboard}")
                    for command in (
                        f"optuna-dashboard {shlex.quote(str(experiment / JOURNAL))}",
                        f"tensorboard --logdir {shlex.quote(str(experiment / 'trials'))}",
                    ):
                        console.print(command, highlight=False, markup=False, soft_wrap=True)
                    if ray_.idle_gpus:
                        console.print(
                            f"Ray has {ray_.idle_gpus} GPUs, and trials train on the CPU: to use "
                            "them, set resources.gpus_per_worker."
                        )
                    shown = dict.fromkeys([*(g.metric for g in study.goals), *trainable.columns])
                    book.listeners += [progress, Gauges(study.name, [*shown])]
                    _search(study, trainable, book, sampler, ray_, console)
        except KeyboardInterrupt:
            pass  # outside Tune's own loop, or a second one: the log is whole at any moment
        finally:
            book.close()
            write_tables(book.ledger, experiment)
            if study.objectives:
                draw_front(book.ledger, experiment / "front.png")
    ended = book.ledger.sessions[-1].closed == "finished"
    return StudyResult(experiment, book.ledger, ended)


def _search(
    study: Study,
    trainable: Trainable,
    book: Book,
    sampler: Sampler,
    ray_: cluster.Cluster,
    console: Console,
) -> None:
    """Run Tune, and run it again if a joined Ray's memory monitor ends it.

    The monitor's error is no actor's death to Tune: it breaks out of the loop, past every retry,
    and takes all trials with it. They go on from their checkpoints in a new loop.
    """
    for kills in range(_MEMORY_KILLS + 1):
        try:
            _fit(study, trainable, book, sampler, ray_.concurrent, f"{kills}")
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            console.print("Ray's memory monitor killed a trial; going on from the checkpoints.")
        else:
            return
    raise SearchError(
        f"Ray's memory monitor has killed trials {_MEMORY_KILLS + 1} times: {ray_.concurrent} at "
        "once do not fit into the memory of a node. Lower resources.concurrent and --resume."
    )


def _fit(
    study: Study,
    trainable: Trainable,
    book: Book,
    sampler: Sampler,
    concurrent: int,
    name: str,
) -> None:
    def assign(trial: Trial) -> dict[str, Any]:
        values = study.configuration(trial.parameters)
        config = parse(trainable.model, values, where=f"trial {trial.number}")
        return Assignment(
            number=trial.number,
            directory=trial_directory(book.experiment, trial.number),
            training=config.model_dump(mode="json"),
            acknowledged=trial.epochs,
            objectives=study.goals,
        ).pack()

    searcher = BookSearcher(book, sampler, concurrent=concurrent, assign=assign)
    storage = book.experiment / "ray"
    with terminate_as_interrupt():
        tune.Tuner(
            _trainable(trainable, study.resources, storage),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=BookScheduler(book),
                num_samples=-1,  # until the searcher says that it has finished
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"session-{len(book.ledger.sessions):03d}-{name}",
                storage_path=str(storage),
                callbacks=[StartedCallback(book)],
                failure_config=tune.FailureConfig(max_failures=study.retries),
                verbose=0,
            ),
        ).fit()


def _trainable(trainable: Trainable, resources: Resources, storage: Path) -> Any:
    if resources.execution == "in_process":
        return tune.with_resources(
            in_process(trainable),
            {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
        )
    # The group's workers ask for their own CPUs; the process that starts them needs none, and
    # a fraction of one would spoil the packing of whole ones.
    return tune.with_resources(
        ray_train(trainable, resources, storage / "train"),
        tune.PlacementGroupFactory([{cluster.DRIVER: 1}]),
    )


def _trial_name(trial: Any) -> str:
    """Tune's name for one stretch of a trial, from the epoch where it is taken up."""
    begun = int(trial.config["acknowledged"])
    return f"trial-{int(trial.config['trial']):05d}{f'-from-{begun}' if begun else ''}"


@contextmanager
def _alone(experiment: Path) -> Iterator[None]:
    """Hold the experiment's directory: two drivers of one search would tell two stories."""
    refuse_foreign(experiment, "the search", {"lock", EVENTS})
    try:
        stream = (own_directory(experiment, "the search") / "lock").open("a+")
    except OSError as error:
        raise SearchError(
            f"{experiment}: cannot be written: {error.strerror}. Choose another --experiment."
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise SearchError(
                f"{experiment}: another driver runs this search ({stream.read().strip()}). "
                "Wait for it, or stop it with Ctrl-C there."
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()}\n")
        stream.flush()
        yield


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends the session as Ctrl-C does (which Tune itself catches)."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
