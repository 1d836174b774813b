"""What failed in an attempt, from within what Ray has wrapped around it."""

from collections.abc import Iterator

from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError


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
