"""The one record of a search: an append-only file of events, each durable before it counts.

    <experiment>/events.jsonl     one JSON object per line, in the order things happened

Ledger, rungs, guards' histories, what the sampler knows and what is left to do are folds of it.
A report and the decision about it are one line, so no crash can fall between the two.
"""

import os
from collections.abc import Iterator
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spinlock.errors import SearchError
from spinlock.search.parameter import Scalar
from spinlock.search.space import Budget
from spinlock.training.footprint import Footprint, Probe


class State(StrEnum):
    """What became of a trial."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"  # ran its epochs, or its own early stopping ended it
    PREEMPTED = "PREEMPTED"  # its machine was taken away; waits for a place elsewhere
    PAUSED = "PAUSED"  # waits at a rung with its checkpoint
    PRUNED = "PRUNED"  # others were better at a rung
    GUARDED = "GUARDED"  # a guard judged it by its own history
    INFEASIBLE = "INFEASIBLE"  # not finite, or does not fit into memory
    FAILED = "FAILED"  # its process died or raised, more often than `retries`
    INTERRUPTED = "INTERRUPTED"  # unfinished in a search that is not running; resumable


class _Record(BaseModel):
    """NaN and infinities are written as strings: bare `NaN` is not JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Verdict(_Record):
    """The end of a trial: by which rule, in a sentence, with the numbers in it.

    `numbers` are the `epoch` and those `saved` of a whole run; where a finite `metric` was judged
    also its `value` and the `limit` that it passed; at a rung the `rung` and how many `compared`.
    """

    state: State
    rule: str
    sentence: str
    metric: str | None = None
    numbers: dict[str, float] = {}


class _Event(_Record):
    time: float = Field(description="seconds since 1970; nothing is ever decided by it")


class Sizing(_Record):
    """The memory plan of a trial, in bytes: a probe, and what the memory model made of it.

    A micro-batch of m samples is reckoned to take (`once` + m * `per_sample`) * (1 + `margin`), and
    `limit` is the trial's part of its device.
    """

    micro_batch: int = Field(ge=1)
    once: float
    per_sample: float
    margin: float
    limit: float
    device: str
    footprint: Footprint
    probes: tuple[Probe, ...]

    def predicted(self, micro_batch: int) -> float:
        """Bytes at the peak, without the margin."""
        return self.once + micro_batch * self.per_sample


class StudyOpened(_Event):
    """First line: what is searched, and what it stands on."""

    event: Literal["study"] = "study"
    format: Literal[1] = 1
    trainable: str
    study: dict[str, Any]
    facts: dict[str, Any]


class Prior(_Event):
    """A trial of an earlier search that this one learns from. All stand before its own first."""

    event: Literal["prior"] = "prior"
    source: str = Field(description="the experiment that it is of")
    trial: int = Field(description="its number there")
    parameters: dict[str, Scalar]
    history: dict[int, dict[str, float]] = Field(description="of what trials are judged by here")
    verdict: Verdict | None = Field(description="there; None if it had none by then")


class SessionOpened(_Event):
    """A driver took the search up."""

    event: Literal["session"] = "session"
    host: str
    pid: int
    trials: int = Field(description="how many trials the study asks for from here on")
    budget: Budget = Field(Budget(), description="and what it may spend on them")
    again: tuple[int, ...] = Field((), description="trials that ended by a cause mended since")


class Suggested(_Event):
    """A trial exists from here on."""

    event: Literal["suggested"] = "suggested"
    trial: int
    parameters: dict[str, Scalar]


class Started(_Event):
    """A process was given the trial, for the `attempt`-th time (from 1)."""

    event: Literal["started"] = "started"
    trial: int
    attempt: int


class Sized(_Event):
    """The trial's process has probed it and chosen its micro-batch; then training begins."""

    event: Literal["sized"] = "sized"
    trial: int
    sizing: Sizing


class Crashed(_Event):
    """An attempt ended by an exception or a dead process; another may follow.

    With `memory` it was the node's memory monitor that killed the process.
    """

    event: Literal["crashed"] = "crashed"
    trial: int
    reason: str
    memory: bool = False


class Preempted(_Event):
    """An attempt ended since its machine was about to go: no failure, and another follows."""

    event: Literal["preempted"] = "preempted"
    trial: int
    reason: str


class Promoted(_Event):
    """A trial that was paused at `rung` goes on."""

    event: Literal["promoted"] = "promoted"
    trial: int
    rung: int


class Reported(_Event):
    """An epoch is acknowledged; with a verdict the trial ends here, with `spared` it would have."""

    event: Literal["epoch"] = "epoch"
    trial: int
    epoch: int = Field(ge=1)
    metrics: dict[str, float]
    verdict: Verdict | None = None
    spared: Verdict | None = None


class Ended(_Event):
    """The trial is given up without a report."""

    event: Literal["ended"] = "ended"
    trial: int
    verdict: Verdict


class SessionClosed(_Event):
    """The driver left in good order; absent after a kill."""

    event: Literal["closed"] = "closed"
    reason: Literal["finished", "interrupted"]


Event = (
    StudyOpened
    | Prior
    | SessionOpened
    | Suggested
    | Started
    | Sized
    | Crashed
    | Preempted
    | Promoted
    | Reported
    | Ended
    | SessionClosed
)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class EventLog:
    """The file, open for appending by its one writer. Pickles without its handle.

    Every line ends with a checksum over itself and all lines before it, so that a line that was
    lost, moved or changed is noticed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: FileIO | None = None
        self._checksum = 0

    def append(self, event: Event) -> None:
        """Write one event and return when it is on disk.

        Raises SearchError when the disk takes it no more, with none of the line left in the file.
        """
        if self._stream is None:
            drop_torn_line(self.path)
            self._checksum = _last_checksum(self.path)
            self._stream = self.path.open("ab", buffering=0)  # no rest to be written at a close
        body = event.model_dump_json().removesuffix("}").encode()
        checksum = crc32(body, self._checksum)
        try:
            _append(self._stream, self.path, body + _seal(checksum))
            self._checksum = checksum
        except BaseException:  # of an interrupt nobody knows how far it came: the next line looks
            self.close()
            raise

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None}


def _append(stream: FileIO, path: Path, line: bytes) -> None:
    size = stream.seek(0, os.SEEK_END)
    try:
        while line:
            line = line[stream.write(line) :]
        os.fsync(stream.fileno())
    except OSError as error:
        stream.truncate(size)
        raise SearchError(
            f"{path}: cannot be written: {error.strerror}. All before it is safe. Put this right, "
            "then go on with --resume."
        ) from None


class EventReader:
    """Takes the lines of a log, each with its newline, and gives its events; `where` is its name.

    Raises SearchError for a damaged line: a log that has lost a line proves nothing.
    """

    def __init__(self, where: str) -> None:
        self._where, self._number, self._checksum = where, 0, 0

    def event(self, line: bytes) -> Event:
        """The event of the next line."""
        self._number += 1
        body = line[:-_SEAL]
        self._checksum = crc32(body, self._checksum)
        if line[-_SEAL:] != _seal(self._checksum):
            raise SearchError(
                f"{self._where}:{self._number}: this line is damaged, or one before it is lost. "
                "Restore the file from a backup."
            )
        try:
            return _EVENT.validate_json(body + b"}")
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise SearchError(
                f"{self._where}:{self._number}: written by another version of Spinlock "
                f"({where}: {fault['msg']})."
            ) from None


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log, oldest first.

    A last line without its newline was never acknowledged and is passed over. Raises SearchError
    for any other damage.
    """
    reader = EventReader(str(path))
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield reader.event(line)


def _seal(checksum: int) -> bytes:
    return b',"check":"%08x"}\n' % checksum


_SEAL = len(_seal(0))


def _last_checksum(path: Path) -> int:
    """The checksum of the last line of a log without a torn one; 0 for an empty log."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with path.open("rb") as stream:
        stream.seek(-len(b'00000000"}\n'), os.SEEK_END)
        return int(stream.read(8), 16)


def drop_torn_line(path: Path) -> None:
    """Cut off what a killed writer left after the last newline."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            step = min(4096, keep)
            stream.seek(keep - step)
            newline = stream.read(step).rfind(b"\n")
            if newline >= 0:
                keep = keep - step + newline + 1
                break
            keep -= step
        if keep < size:
            stream.truncate(keep)
