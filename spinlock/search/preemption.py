"""Word that the machine under a trial is about to be taken away, and what the trial says to it.

Such word is a drain of the trial's node (`ray drain-node`, an autoscaler, `ray start --block` when
it is terminated), or a SIGTERM to one of the trial's own processes. Ray tells nobody of a drain:
who wants to know must look.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import ray
from ray.exceptions import RayActorError, RayError

_LOOK_SECONDS = 1.0
Look = Callable[[], str | None]
"""Why a trial is to leave its machines; None while it may stay."""


class Preempted(RayActorError):  # noqa: N818 - no error: the trial goes on elsewhere
    """A trial has left its machine, with a checkpoint.

    To Tune it is an actor whose node was preempted: it starts the trial in another process, and
    does not count the attempt as a failure.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(error_msg=reason, preempted=True)


class Notice:
    """What is known by now; `reason` is None while the machine stays."""

    reason: str | None = None


_here: Notice | None = None  # of the trial that this process trains


@contextmanager
def watched(look: Look) -> Iterator[Notice]:
    """A notice that is kept up to date while inside: by `look`, and by SIGTERM to this process."""
    with _heeded() as notice:

        def seen() -> bool:
            notice.reason = notice.reason or look()
            return notice.reason is not None

        seen()
        with _each_second(seen):
            yield notice


@contextmanager
def passed_on(tell: Callable[[str], None]) -> Iterator[Notice]:
    """A notice of SIGTERM to this process, which is told to whoever may save the trial."""
    with _heeded() as notice:

        def told() -> bool:
            if notice.reason is not None:
                tell(notice.reason)
            return notice.reason is not None

        with _each_second(told):
            yield notice


@contextmanager
def _heeded() -> Iterator[Notice]:
    global _here
    _here = notice = Notice()
    try:
        yield notice
    finally:
        _here = None


@contextmanager
def _each_second(act: Callable[[], bool]) -> Iterator[None]:
    """Inside, do it in a thread of its own until it is done."""
    ended = threading.Event()

    def keep_on() -> None:
        while not ended.wait(_LOOK_SECONDS):
            with suppress(RayError):  # Ray does not answer: asked again
                if act():
                    return

    threading.Thread(target=keep_on, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def own_node() -> str:
    """The node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def heed_termination() -> None:
    """From here on SIGTERM is a notice to the trial in this process, which then ends by itself.

    Between trials it ends the process, as before. To be called in the main thread.
    """
    before = signal.getsignal(signal.SIGTERM)

    def terminate(number: int, frame: FrameType | None) -> None:
        if _here is not None:
            _here.reason = f"its process on {socket.gethostname()} was told to end (SIGTERM)"
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, terminate)


def drained(nodes: Collection[str]) -> str | None:
    """Why one of the nodes is about to go; None if none is."""
    draining: dict[str, int] = ray._private.state.state.get_draining_nodes()
    gone = sorted(draining.keys() & {*nodes}) if draining else []
    if not gone:
        return None
    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    left = draining[gone[0]] / 1000 - time.time()  # no deadline is 0
    when = f" in {left:.0f} s" if left > 0 else ""
    return f"node {names.get(gone[0], gone[0])} is being drained and goes{when}"
