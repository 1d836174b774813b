"""An experiment's lock: one driver at a time, and whether there is one."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spinlock.errors import SearchError
from spinlock.files import own_directory, refuse_foreign

LOCK = "lock"
_HERE = f" on {socket.gethostname()}\n"  # ends what a driver writes into it
_PATIENCE = 0.5  # seconds, in which one who only looks has looked


@contextmanager
def alone(experiment: Path, log: str) -> Iterator[None]:
    """Hold the experiment's directory: two drivers of one search would tell two stories.

    It may be one that has a `log`. Raises SearchError where another driver holds it.
    """
    refuse_foreign(experiment, "the search", {LOCK, log})
    try:
        stream = (own_directory(experiment, "the search") / LOCK).open("a+")
    except OSError as error:
        raise SearchError(
            f"{experiment}: cannot be written: {error.strerror}. Choose another --experiment."
        ) from None
    with stream:
        if not _taken(stream):
            stream.seek(0)
            raise SearchError(
                f"{experiment}: another driver runs this search ({stream.read().strip()}). "
                "Wait for it, or stop it with Ctrl-C there."
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()}{_HERE}")
        stream.flush()
        yield


def deserted(experiment: Path) -> bool:
    """Whether the driver that held the experiment last did so on this machine, and does no more.

    Of a driver on another machine nothing is known: not every file system tells of its lock.
    """
    try:
        with (experiment / LOCK).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return stream.read().endswith(_HERE)
    except OSError:  # held, or no lock there, or none of a file system's
        return False


def _taken(stream: IO[str]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PATIENCE / 10)
