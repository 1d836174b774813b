"""Ray Tune's scheduler: passes each report to the book and acts on the verdict.

Scheduler is where Tune asks first, before searcher and callbacks, and the only place that may
stop a trial; so a report is on disk before anything else hears of it.
"""

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from typing_extensions import override

from spinlock.search.book import Book
from spinlock.search.causes import causes, error_of
from spinlock.search.events import State
from spinlock.search.execution import TRIAL, plan_in, unpack
from spinlock.search.memory_kill import is_memory_kill


class BookScheduler(FIFOScheduler):
    """First come, first run; stopped by the book's verdicts."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    @override
    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        number = int(trial.config[TRIAL])
        if (plan := plan_in(result)) is not None:
            self._book.sized(number, plan)
            return str(TrialScheduler.CONTINUE)
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
        _forget_others(tune_controller, trial)
        trial_ = self._book.ledger.trials[int(trial.config[TRIAL])]
        if trial_.paused is not None:
            return
        self._book.fail(trial_.number, f"returned after epoch {trial_.epochs} without a reason")

    @override
    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        _forget_others(tune_controller, trial)
        number, error = int(trial.config[TRIAL]), error_of(trial)
        sentence = _sentence(error)
        if trial.run_metadata.num_failures == 0:  # Tune's word for a preemption, noticed or not
            self._book.preempted(number, sentence.removeprefix("Preempted: "))
        else:
            self._book.crashed(number, sentence, memory=is_memory_kill(error))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_book": None}


class StartedCallback(TrialProgressCallback):
    """Enters in the book when a process takes a trial up.

    It stands in the place of Tune's own printer, which keeps every trial that it has heard of.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    @override
    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._book.started(int(trial.config[TRIAL]))

    @override
    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        pass

    @override
    def log_result(self, *_: Any, **__: Any) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {"_book": None}


def _forget_others(tune_controller: Any, trial: TuneTrial) -> None:
    """Take trials that ended before this one out of Tune's memory: they stand in the book.

    Tune would keep each for good, with its results and its part of a snapshot that we never read,
    and walk through all of them several times at every step. This one it may yet begin anew, after
    a preemption.
    """
    trials = tune_controller.get_trials()
    for other in [each for each in trials if each.is_finished() and each is not trial]:
        tune_controller._trials.remove(other)
        for held in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
            getattr(tune_controller, held).discard(other)
        tune_controller._trial_metadata.pop(other.trial_id, None)


def _sentence(error: BaseException) -> str:
    """The user's own exception, of several workers the first one's."""
    whose, cause = next(causes(error))
    return f"{whose}{type(cause).__name__}: {_first_line(str(cause))}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
