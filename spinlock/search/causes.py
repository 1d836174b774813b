"""What failed in an attempt, from within what Ray has wrapped around it.

Tune (Ray 2.60) keeps the error as a pickle in its session's directory, which Ray makes writable to
everyone on the machine: to read it would be to run what another may have put there. So it is kept
in memory, as Tune meets it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.tune.experiment import Trial as TuneTrial


@contextmanager
def kept() -> Iterator[None]:
    """Inside, `error_of` has what ended an attempt."""
    handle = TuneTrial.handle_error

    def keep(self: TuneTrial, exc: Exception | None = None) -> None:
        self.temporary_state.error = exc  # which Tune does not save
        handle(self, exc)

    TuneTrial.handle_error = keep
    try:
        yield
    finally:
        TuneTrial.handle_error = handle


def error_of(trial: TuneTrial) -> BaseException:
    """What ended this attempt, as Tune was told."""
    error: BaseException = trial.temporary_state.error
    return error


def causes(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """Each exception within, by its worker's rank, after the words that say whose it is."""
    match error:
        case RayTaskError():
            yield from causes(error.cause)
        case WorkerGroupError() if error.worker_failures:
            for rank, failure in sorted(error.worker_failures.items(), key=lambda item: item[0]):
                for whose, cause in causes(failure):
                    yield f"worker {rank}: {whose}", cause
        case ControllerError():
            yield from causes(error.controller_failure)
        case WorkerHealthCheckFailedError():
            yield from causes(error.health_check_failure)
        case _:
            yield "", error
