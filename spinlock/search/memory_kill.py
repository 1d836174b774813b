"""A node's memory monitor that kills a trial's process, made an ordinary failed attempt.

When a node runs full, Ray's raylet kills processes, at times several at once. What they were asked
for fails with OutOfMemoryError, which to Tune (Ray 2.60) is no death of an actor: it ends the whole
loop, past every retry, and takes the other trials with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from spinlock.search.causes import causes

_CALLBACKS = ("_actor_task_failed", "_actor_start_failed")


class MemoryKillError(ActorDiedError):
    """The node's memory monitor killed the trial's own process."""

    def __init__(self, told: str = "") -> None:
        super().__init__()
        self.error_msg = told


@contextmanager
def told_as_deaths() -> Iterator[None]:
    """Inside, Tune takes a monitor's kill for what it is: the death of one actor."""
    task_failed, start_failed = (getattr(RayActorManager, name) for name in _CALLBACKS)

    def on_task(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        task_failed(self, tracked_actor_task, _as_death(exception))

    def on_start(self: Any, tracked_actor: Any, exception: Exception) -> None:
        start_failed(self, tracked_actor, _as_death(exception))

    for name, callback in zip(_CALLBACKS, (on_task, on_start), strict=True):
        setattr(RayActorManager, name, callback)
    try:
        yield
    finally:
        for name, callback in zip(_CALLBACKS, (task_failed, start_failed), strict=True):
            setattr(RayActorManager, name, callback)


def _as_death(exception: Exception) -> Exception:
    # A trial's function that meets such an error raises a RayTaskError, which is also one.
    if isinstance(exception, OutOfMemoryError) and not isinstance(exception, RayTaskError):
        return MemoryKillError(str(exception))
    return exception


def is_memory_kill(error: BaseException) -> bool:
    """Whether a memory monitor killed the trial's process, or one of its group's."""
    kills = MemoryKillError | OutOfMemoryError
    return any(isinstance(cause, kills) for _, cause in causes(error))
