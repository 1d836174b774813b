"""Ray Tune's scheduler: passes each report to the book and acts on the verdict.

Scheduler is where Tune asks first, before searcher and callbacks, and the only place that may
stop a trial; so a report is on disk before anything else hears of it.
"""

from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import EXPR_ERROR_FILE, EXPR_ERROR_PICKLE_FILE
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from typing_extensions import override

from spinlock.search.book import Book
from spinlock.search.events import State
from spinlock.search.execution import TRIAL, unpack


class BookScheduler(FIFOScheduler):
    """First come, first run; stopped by the book's verdicts."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book
        self._counted: dict[str, int] = {}  # failures, by Tune's name of the trial

    @override
    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        number = int(trial.config[TRIAL])
        report = unpack(result)
        if report is None:  # Tune's own word that the function has returned
            return str(TrialScheduler.CONTINUE)
        verdict = self._book.report(number, *report)
        if verdict is None:
            # Paused is stopped to Tune: its process is free, and whoever takes the trial up again
            # finds the checkpoint. Who waits where stands in the log, so a restart knows it too.
            paused = self._book.ledger.trials[number].paused is not None
            return str(TrialScheduler.STOP if paused else TrialScheduler.CONTINUE)
        if verdict.state == State.COMPLETED:  # which returns by itself
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP)

    @override
    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: Any) -> None:
        trial_ = self._book.ledger.trials[int(trial.config[TRIAL])]
        if trial_.paused is not None:
            return
        self._book.fail(trial_.number, f"returned after epoch {trial_.epochs} without a reason")

    @override
    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        # Called after every failed attempt, also when another follows. What Tune does not count
        # against `retries` is a preemption, noticed in time or not.
        number, counted = int(trial.config[TRIAL]), trial.run_metadata.num_failures
        if counted == self._counted.get(trial.trial_id, 0):
            self._book.preempted(number, _cause(trial).removeprefix("Preempted: "))
        else:
            self._counted[trial.trial_id] = counted
            self._book.crashed(number, _cause(trial))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_book": None}


class StartedCallback(Callback):
    """Enters in the book when a process takes a trial up."""

    def __init__(self, book: Book) -> None:
        self._book = book

    @override
    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._book.started(int(trial.config[TRIAL]))

    def __getstate__(self) -> dict[str, Any]:
        return {"_book": None}


def _cause(trial: TuneTrial) -> str:
    """Why the trial's last attempt failed, in one line, from what Tune keeps of it."""
    text = Path(trial.local_path) / EXPR_ERROR_FILE
    pickled = Path(trial.local_path) / EXPR_ERROR_PICKLE_FILE
    # "Failure # 2 (occurred at ...)", then the error; failures to start are not pickled.
    told = text.read_text().rpartition("Failure # ")[2].partition("\n")[2] if text.is_file() else ""
    if pickled.is_file():
        error = cloudpickle.loads(pickled.read_bytes())
        if str(error) in told:
            return _sentence(error)
    return _first_line(told)


def _sentence(error: BaseException) -> str:
    """The user's own exception, from within what Ray wrapped around it."""
    match error:
        case RayTaskError():
            return _sentence(error.cause)
        case WorkerGroupError() if error.worker_failures:
            rank, failure = min(error.worker_failures.items())
            return f"worker {rank}: {_sentence(failure)}"
        case WorkerHealthCheckFailedError():
            return _sentence(error.health_check_failure)
        case _:
            return f"{type(error).__name__}: {_first_line(str(error))}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
