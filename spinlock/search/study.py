"""A search, run: the only place that builds a Tuner.

A killed or interrupted search is resumed from its own log with a new Tuner: unfinished trials
are handed out again under their numbers, from their newest checkpoints, then new ones follow.
"""

import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from rich.console import Console

from spinlock.config import parse
from spinlock.errors import SearchError, SpinlockError
from spinlock.search import cluster, nodes, storage
from spinlock.search.alone import alone
from spinlock.search.attempt import Assignment, attempt
from spinlock.search.book import Book
from spinlock.search.causes import kept
from spinlock.search.check import check
from spinlock.search.checkpoints import trial_directory
from spinlock.search.events import Prior
from spinlock.search.execution import in_process, ray_train
from spinlock.search.gauges import Gauges
from spinlock.search.ledger import EVENTS, Ledger
from spinlock.search.memory_kill import told_as_deaths
from spinlock.search.packed import packed
from spinlock.search.report import Progress
from spinlock.search.sampler import Sampler
from spinlock.search.scheduler import BookScheduler, StartedCallback
from spinlock.search.searcher import BookSearcher
from spinlock.search.sizing import Room
from spinlock.search.space import Resources, Study
from spinlock.search.storage import watched_by
from spinlock.search.tables import write_tables
from spinlock.search.trainable import Trainable
from spinlock.search.trial import Trial
from spinlock.search.warm_start import earlier


@dataclass(frozen=True)
class StudyResult:
    """What a session left: if not `finished`, by Ctrl-C or `ledger.broken`, it can be resumed."""

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

    The first Ctrl-C or SIGTERM ends the session in good order; trials under way are resumed later.
    A SIGTERM that the process ignores stays ignored. Raises SearchError when the directory holds a
    search and `resume` is not asked for, when the study differs from the one that was begun, when
    another driver is at it, when its storage or the log cannot be written, or when a node of the
    Ray at `address` does not see the same files.
    """
    console = console or Console(stderr=True)
    check(study, trainable, where=study.name)
    experiment = experiment.resolve()
    if study.storage is not None:
        storage.connect(study.storage)  # before anything is begun that would have to be resumed
    with terminate_as_interrupt(), alone(experiment, EVENTS):
        first = study.configuration(study.corner)
        base = parse(trainable.model, first, where=study.name)

        def reporting(trial: Trial) -> Sequence[int]:
            values = study.configuration(trial.parameters)
            config = parse(trainable.model, values, where=f"trial {trial.number}")
            return trainable.reporting(config)

        facts = trainable.facts(base)

        def priors() -> list[Prior]:
            found = earlier(study, trainable, facts)
            for sentence in (sentence for each in found for sentence in each.sentences):
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
            return [prior for each in found for prior in each.priors]

        book = Book.open(
            experiment,
            study,
            trainable=trainable.name,
            facts=facts,
            reporting=reporting,
            resume=resume,
            priors=priors,
        )
        sampler = Sampler.open(experiment, book.ledger, url=study.storage)
        trial_directory(experiment, 0).parent.mkdir(exist_ok=True)
        again = ", ".join(map(str, book.ledger.sessions[-1].again))
        if again:
            console.print(f"Taken up again, for what had ended them to be mended: trials {again}.")
        try:
            if not book.ledger.done:
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
                        watched_by(experiment, study.storage),
                        f"tensorboard --logdir {shlex.quote(str(experiment / 'trials'))}",
                    ):
                        console.print(command, highlight=False, markup=False, soft_wrap=True)
                    if ray_.waiting:
                        console.print(
                            f"Up to {ray_.concurrent} trials train at once. For {ray_.waiting} of "
                            "them Ray has no machine yet: its autoscaler brings them while they "
                            "wait, which takes minutes.",
                            soft_wrap=True,
                        )
                    if ray_.idle_gpus:
                        console.print(
                            f"Ray has {ray_.idle_gpus} GPUs, and trials train on the CPU: to use "
                            "them, set resources.gpus_per_worker."
                        )
                    shown = dict.fromkeys([*(g.metric for g in study.goals), *trainable.columns])
                    book.listeners += [progress, Gauges(study.name, [*shown])]
                    room = Room.of(study.resources, share * ray_.concurrent)
                    _search(study, trainable, book, sampler, ray_.concurrent, room)
        except KeyboardInterrupt:
            pass  # outside Tune's own loop, or a second one: the log is whole at any moment
        except OSError as error:
            raise _refused_by_disk(experiment, error) from error
        finally:
            sampler.settle(experiment, url=study.storage)
            _close(book, console)
    ended = book.ledger.sessions[-1].closed == "finished"
    return StudyResult(experiment, book.ledger, ended)


def _close(book: Book, console: Console) -> None:
    """End the session with its tables. A disk that refuses them hides nothing that came before."""
    try:
        book.close()
        write_tables(book.ledger, book.experiment)
    except (SpinlockError, OSError) as error:
        console.print(f"The session has left no tables: {error}", markup=False, soft_wrap=True)


def _refused_by_disk(experiment: Path, error: OSError) -> SearchError:
    return SearchError(
        f"{experiment}: the search stops here: {error}. What was acknowledged is safe in "
        f"{EVENTS}. Put this right, then go on with --resume."
    )


def _search(
    study: Study,
    trainable: Trainable,
    book: Book,
    sampler: Sampler,
    concurrent: int,
    room: Room,
) -> None:
    def assign(trial: Trial) -> dict[str, Any]:
        values = study.configuration(trial.parameters)
        config = parse(trainable.model, values, where=f"trial {trial.number}")
        return Assignment(
            number=trial.number,
            directory=trial_directory(book.experiment, trial.number),
            training=config.model_dump(mode="json"),
            acknowledged=trial.epochs,
            attempt=trial.attempts + 1,
            objectives=study.goals,
            micro_batch=trial.micro_batch,
            known=book.ledger.memory.known,
            room=room,
        ).pack()

    searcher = BookSearcher(book, sampler, concurrent=concurrent, assign=assign)
    tuned = book.experiment / "ray"
    tuner = tune.Tuner(
        _trainable(trainable, study.resources, tuned),
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
            name=f"session-{len(book.ledger.sessions):03d}",
            storage_path=str(tuned),
            callbacks=[StartedCallback(book)],
            # Retries are the book's, by their cause: each attempt is a Tune trial of its own.
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    with told_as_deaths(), kept():
        try:
            tuner.fit()
        except TuneError as error:  # made of the text of what a callback raised
            if isinstance(error.__context__, SpinlockError | OSError):
                raise error.__context__ from None
            raise


def _trainable(trainable: Trainable, resources: Resources, tuned: Path) -> Any:
    carried = packed(partial(attempt, trainable))
    if resources.execution == "in_process":
        return tune.with_resources(
            in_process(carried),
            {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
        )
    # The group's workers ask for their own CPUs; the process that starts them needs none, and
    # a fraction of one would spoil the packing of whole ones.
    return tune.with_resources(
        ray_train(carried, resources, tuned / "train"),
        tune.PlacementGroupFactory([{cluster.DRIVER: 1}]),
    )


def _trial_name(trial: Any) -> str:
    """Tune's name for one attempt at a trial."""
    return f"trial-{int(trial.config['trial']):05d}-attempt-{int(trial.config['attempt'])}"


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM is Ctrl-C, except in a process that has been told to ignore it."""
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(_: int, frame: FrameType | None) -> None:
        answer = signal.getsignal(signal.SIGINT)  # Tune's, while it runs
        if not callable(answer):  # a job in the background ignores Ctrl-C, which is not meant here
            answer = signal.default_int_handler
        answer(signal.SIGINT, frame)

    if before != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
