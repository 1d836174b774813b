"""The searches of a cluster, as Ray's Jobs API has them: found by their jobs' metadata.

A search may have several jobs, one for each time that it was taken up. The newest stands for it.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray._private.authentication import authentication_token_setup as authentication
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from spinlock.errors import SearchError

_ADDRESS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # of a dashboard, by Ray's own names
STUDY, EXPERIMENT, COMMAND = "study", "experiment", "command"  # in a job's metadata
# Between SIGTERM and SIGKILL. Ray's 3 s are too short for a driver that ends its trials first.
STOP_SECONDS = 60
GRACE = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
_LOOK_SECONDS = 0.3
_PATIENCE = 120  # for a small job to be started and to end
_ENTRYPOINT = "Running entrypoint for job "
# Ray (2.60) appends this line to a job's log when it has started the command, so that it comes
# before, after or in the midst of what the command prints. Ours print once it is there.
_ONCE_TOLD = f"until grep -q '^{_ENTRYPOINT}' /proc/$$/fd/1; do sleep 0.01; done; "


@dataclass(frozen=True)
class Job:
    """The newest job of a search; times are seconds since 1970, 0 before it was started."""

    id: str
    study: str
    experiment: Path
    command: str
    status: str
    started: float
    ended: float | None

    @property
    def over(self) -> bool:
        """Whether it runs no more."""
        return self.status not in ("PENDING", "RUNNING")


def connect(address: str | None) -> tuple[JobSubmissionClient, str]:
    """The cluster's jobs, and where they are. The token is Ray's: RAY_AUTH_TOKEN or its file."""
    place = address or next((os.environ[key] for key in _ADDRESS if os.environ.get(key)), None)
    if place is None:
        raise SearchError(
            "a cluster is named by --address, the URL of its dashboard: http://127.0.0.1:8265 "
            "while `ray dashboard cluster.yaml` runs."
        )
    if not place.startswith(("http://", "https://")):
        raise SearchError(
            f"{place}: the address of a cluster's jobs is the URL of its dashboard, such as "
            "http://127.0.0.1:8265."
        )
    os.environ[_ADDRESS[0]] = place  # which Ray would otherwise put before what it is told
    for said in (
        "dashboard.modules.dashboard_sdk",
        "_private.authentication",
        "_private.runtime_env",
    ):
        logging.getLogger(f"ray.{said}").setLevel(logging.ERROR)
    authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        return JobSubmissionClient(place), place
    except AuthenticationError as error:
        raise SearchError(
            f"{place}: the cluster refuses the token of this machine "
            f"({_first_sentence(error)}). Copy the cluster's own to ~/.ray/auth_token, or set "
            "RAY_AUTH_TOKEN."
        ) from None
    except (ConnectionError, requests.RequestException, RuntimeError) as error:
        raise SearchError(
            f"{place}: no cluster answers ({_first_sentence(error)}). Is it up, "
            "and the tunnel to its dashboard open?"
        ) from None


def searches(client: JobSubmissionClient) -> list[Job]:
    """The newest job of each search that was sent there, the latest first."""
    found: dict[Path, Job] = {}
    for details in sorted(client.list_jobs(), key=lambda job: -(job.start_time or 0)):
        metadata = details.metadata or {}
        if details.submission_id is None or not {STUDY, EXPERIMENT} <= metadata.keys():
            continue
        job = Job(
            id=details.submission_id,
            study=metadata[STUDY],
            experiment=Path(metadata[EXPERIMENT]),
            command=metadata.get(COMMAND, ""),
            status=str(details.status.value),
            started=(details.start_time or 0) / 1000,
            ended=details.end_time / 1000 if details.end_time else None,
        )
        found.setdefault(job.experiment, job)
    return [*found.values()]


def find(client: JobSubmissionClient, name: str) -> Job:
    """The search with this experiment, or a directory in it, this job, or the latest of this name.

    Raises SearchError where there is none.
    """
    there = searches(client)
    for job in there:
        if name == job.id or Path(name).is_relative_to(job.experiment):
            return job
    for job in there:
        if name in (job.study, job.experiment.name):
            return job
    known = ", ".join(f"{job.study} ({job.experiment})" for job in there) or "none"
    raise SearchError(
        f"{name}: no search of this cluster. Name one by its experiment, its job or its study: "
        f"there is {known}."
    )


def stop(client: JobSubmissionClient, job: Job) -> float:
    """End a search's session in good order; how many seconds it took.

    Raises SearchError where the search does not run, and where its job does not end.
    """
    if job.over:
        raise SearchError(f"{job.id}: does not run, it is {job.status}. There is nothing to stop.")
    asked = time.monotonic()
    client.stop_job(job.id)
    _wait(client, job.id, STOP_SECONDS + _PATIENCE)
    return time.monotonic() - asked


def send(client: JobSubmissionClient, **job: Any) -> str:
    """Submit a job, and once more where the head has only just started; its name.

    Raises SearchError where the head takes none.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise SearchError(
                    f"the cluster takes no job ({_first_sentence(error)}). `ray status` on its "
                    "head says what is up; a second Ray on the head's machine needs another "
                    "--dashboard-agent-listen-port."
                ) from None
            time.sleep(1)


def output(client: JobSubmissionClient, command: str, package: Path | None = None) -> str:
    """What a shell command prints on the cluster's head, as a job that leaves nothing behind.

    It finds the files of `package` where it starts. Raises SearchError where it fails.
    """
    with _passing(client, command, package) as job:
        status = _wait(client, job, _PATIENCE if package is None else None)
        told = _after_entrypoint(client.get_job_logs(job))
        if status != "SUCCEEDED":
            reason = next(reversed(told.split("\n")[:-1]), "no message")
            raise SearchError(f"on the cluster, `{command[:60]}` failed: {reason}")
        return told


def stream(client: JobSubmissionClient, command: str) -> Iterator[str]:
    """What a shell command prints there, piece by piece, until it ends or nobody listens."""
    with _passing(client, command, None) as job:
        yield from _pieces(client, job)


def logs(client: JobSubmissionClient, job: Job, *, follow: bool) -> Iterator[str]:
    """What the search's driver has printed, piece by piece; with `follow` until its job ends."""
    if follow:
        yield from _pieces(client, job.id)
    else:
        yield client.get_job_logs(job.id)


@contextmanager
def _passing(client: JobSubmissionClient, command: str, package: Path | None) -> Iterator[str]:
    environment = {} if package is None else {"working_dir": str(package)}
    job = send(client, entrypoint=_ONCE_TOLD + command, runtime_env=environment)
    try:
        yield job
    finally:
        client.stop_job(job)
        _wait(client, job, _PATIENCE)
        client.delete_job(job)


def _wait(client: JobSubmissionClient, job: str, patience: float | None) -> str:
    """Until the job is over; how it is then."""
    deadline = None if patience is None else time.monotonic() + patience
    while not (status := client.get_job_status(job)).is_terminal():
        if deadline is not None and time.monotonic() > deadline:
            raise SearchError(
                f"{job}: still {status.value} after {patience:.0f} s. Is its head up?"
            )
        time.sleep(_LOOK_SECONDS)
    return str(status.value)


def _pieces(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """Ray's asynchronous tail, from a plain loop."""
    tail = client.tail_job_logs(job)

    async def following() -> str | None:
        return await anext(tail, None)

    with asyncio.Runner() as runner:  # on Ctrl-C it cancels what waits, and closes the tail
        while (piece := runner.run(following())) is not None:
            yield piece


def _after_entrypoint(told: str) -> str:
    """A job's log without what Ray writes before its command begins."""
    return told.partition(f"\n{_ENTRYPOINT}")[2].partition("\n")[2]


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".")
