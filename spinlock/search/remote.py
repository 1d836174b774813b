"""The log of a search on a cluster, read from afar: a small job prints it, and it is folded here.

`tail` needs neither our code nor a start of Python there, the lines arrive with their checksums,
and what is derived from them here equals what the search's own driver derives.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from spinlock.errors import SearchError
from spinlock.search import jobs
from spinlock.search.events import Event, EventReader, SessionClosed
from spinlock.search.ledger import EVENTS, Ledger, fold

_HEADER = re.compile(r"(?:^|\n)==> (.+) <==\n")  # between the files that `tail -v` prints
_MINUTES = 5  # after which a job that prints a log as it grows is followed by another


def read_logs(client: JobSubmissionClient, experiments: Sequence[Path]) -> dict[Path, bytes]:
    """The logs that stand in these experiments, by the directories that they are in.

    Searches that ran side by side have theirs in directories of the one experiment.
    """
    files = [
        f"{shlex.quote(str(experiment))}{below}/{EVENTS}"
        for experiment in experiments
        for below in ("", "/*")
    ]
    told = jobs.output(client, f"tail -v -n +1 {' '.join(files)} 2>/dev/null || true")
    _, *parts = _HEADER.split(told)
    return {
        Path(path).parent: _whole_lines(text.encode())
        for path, text in zip(parts[::2], parts[1::2], strict=True)
    }


def fold_log(experiment: Path, log: bytes) -> Ledger:
    """The ledger of a log that was read so. Raises SearchError where it is damaged."""
    reader = EventReader(str(experiment / EVENTS))
    return fold(reader.event(line) for line in log.splitlines(keepends=True))


def follow(client: JobSubmissionClient, job: jobs.Job, experiment: Path) -> Iterator[list[Event]]:
    """The events of a log, as many at a time as have arrived, until its session is closed.

    Ends also where the search's job has ended otherwise, which is noticed after some minutes.
    """
    path = experiment / EVENTS
    reader, taken, rest = EventReader(str(path)), 0, b""
    while True:
        command = f"timeout {_MINUTES}m tail -c +{taken + 1} -F {shlex.quote(str(path))}"
        for piece in jobs.stream(client, command):
            *lines, rest = (rest + piece.encode()).splitlines(keepends=True) or [b""]
            if rest.endswith(b"\n"):
                lines, rest = [*lines, rest], b""
            lines = [line for line in lines if line.startswith(b"{")]  # not what Ray and tail say
            taken += sum(map(len, lines))
            events = [reader.event(line) for line in lines]
            if events:
                yield events
            # An earlier session's end may be the last line that has arrived so far.
            if events and isinstance(events[-1], SessionClosed) and events[-1].time >= job.started:
                return
        rest = b""
        if jobs.find(client, job.id).over:
            return


def deserted(ledger: Ledger, job: jobs.Job) -> bool:
    """Whether the last session was that of a job which had ended before the log was read."""
    opened = ledger.sessions[-1].opened if ledger.sessions else 0.0
    return job.over and (job.ended is None or opened <= job.ended)


def only(logs: dict[Path, bytes], job: jobs.Job, name: str) -> Path:
    """The one log that is meant, by the experiment's own name or that of a directory in it."""
    if Path(name) in logs:
        return Path(name)
    if not logs:
        raise SearchError(
            f"{job.experiment}: its search has no log yet; job {job.id} is {job.status}. "
            f"`spinlock logs {job.id}` shows what it says."
        )
    if len(logs) > 1:
        raise SearchError(
            f"{job.experiment}: {len(logs)} searches ran side by side there. Name one: "
            f"{', '.join(map(str, logs))}."
        )
    return next(iter(logs))


def _whole_lines(log: bytes) -> bytes:
    """Without what a writer that was killed, or is writing, left after the last newline."""
    return log[: log.rfind(b"\n") + 1]
