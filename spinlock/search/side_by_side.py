"""Several searches at once on one Ray, each in a process of its own, led by this one.

A process has one Tuner: Tune takes its signals and its whole main thread. So each search has its
own, with its own log, and is resumed by it. Ctrl-C and SIGTERM are the leader's alone, which passes
them on as one interrupt: Ray stops a job by a SIGTERM to each of its processes, and a second
interrupt would break off the end that the first one began. A search that fails ends the others in
good order too.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from rich.console import Console

from spinlock.errors import SearchError, SpinlockError
from spinlock.search import cluster
from spinlock.search.space import Study
from spinlock.search.study import run, terminate_as_interrupt
from spinlock.search.trainables import TRAINABLES

FINISHED, FAULT, INTERRUPTED = 0, 2, 130
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_WIDTH = 200


@dataclass(frozen=True)
class Side:
    """One of the searches: `name` is that of its trainable, `experiment` its directory."""

    name: str
    study: Study
    experiment: Path


def search_side_by_side(
    sides: Sequence[Side], *, resume: bool = False, address: str | None = None
) -> bool:
    """Run them until all have ended; whether all have finished, none was interrupted.

    What they say goes to stdout, each line with the name of its search. A search that is in its
    directory already is taken up with `resume`, as is one that has not begun. Raises SearchError
    where one cannot run.
    """
    context = get_context("spawn")
    with (
        terminate_as_interrupt(),
        cluster.shared([side.study.resources for side in sides], address=address) as place,
    ):
        events = [context.Event() for _ in sides]
        processes = [
            context.Process(
                target=_search, name=side.name, args=(side, resume, place, len(sides), event)
            )
            for side, event in zip(sides, events, strict=True)
        ]
        _start(processes, events)
        _wait(processes)
    codes = {process.name: process.exitcode for process in processes}
    failed = [name for name, code in codes.items() if code not in (FINISHED, INTERRUPTED)]
    if failed:
        raise SearchError(
            f"the search of the {' and the '.join(failed)} failed, as it said above. Put this "
            "right, and go on with --resume."
        )
    return all(code == FINISHED for code in codes.values())


def _start(processes: Sequence[SpawnProcess], events: Sequence[Event]) -> None:
    """Begin all, and return when each of them can take a signal.

    A signal that comes before waits: a process inherits that it is blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        for process in processes:
            process.start()
        for process, event in zip(processes, events, strict=True):
            while not event.wait(0.1) and process.is_alive():
                pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(processes: Sequence[SpawnProcess]) -> None:
    """Until all have ended. An interrupt, and a search that fails, interrupt the others."""
    running = list(processes)
    while running:
        try:
            wait([process.sentinel for process in running])
            ended = [process for process in running if process.exitcode is not None]
            running = [process for process in running if process.exitcode is None]
            if any(process.exitcode not in (FINISHED, INTERRUPTED) for process in ended):
                _interrupt(running)
        except KeyboardInterrupt:
            _interrupt(running)


def _interrupt(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)


def _search(side: Side, resume: bool, address: str, share: int, ready: Event) -> None:
    """One search, in its own process; its end is the process's exit code."""
    os.setpgrp()  # so that the terminal's Ctrl-C reaches the leader alone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = INTERRUPTED
    try:
        ready.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        result = run(
            side.study,
            TRAINABLES[side.name],
            side.experiment,
            resume=resume,
            address=address,
            share=share,
            console=Console(file=_Named(side.name), width=_WIDTH),
        )
        code = FINISHED if result.finished else INTERRUPTED
        if not result.finished and result.ledger.broken is not None:
            raise SearchError(result.ledger.broken)
    except SpinlockError as error:
        print(f"Error: {side.name}: {error}", file=sys.stderr)
        code = FAULT
    except KeyboardInterrupt:
        pass
    finally:  # the code stands: a signal that comes while Python shuts down must not change it
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
    sys.exit(code)


class _Named(StringIO):
    """stdout, with a name before each line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._rest = name, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            sys.stdout.write(f"{self._name}  {line}\n")
        sys.stdout.flush()
        return len(text)
