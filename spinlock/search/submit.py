"""A launch script's command, sent to a cluster: a Ray job that runs it there with this code.

The package, the launch scripts and the study's files travel in the job. Data and results do not:
their paths are those of the storage that the cluster's nodes share.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import requests
from ray._private.authentication import authentication_token_setup as authentication
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

import spinlock
from spinlock.artifact import COMMIT, commit
from spinlock.config import dotted
from spinlock.errors import SearchError
from spinlock.search.prepare import LATER
from spinlock.search.space import Study

_ADDRESS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # of a dashboard, by Ray's own names
_FILES = ("data.path", "tokenizer", "features_cache")  # settings of a training that name a file
_SPACES = "search_spaces"
_EXAMPLE = "absolute and on storage that all nodes share, such as /shared/experiments/latent"


def submit(
    spaces: Sequence[Path],
    studies: Sequence[Study],
    files: Sequence[Path],
    experiment: Path | None,
    artifacts: Path,
    address: str | None,
) -> None:
    """Send this process's command line to the cluster at `address`, and say how to follow it.

    `spaces` are the study's files, the one that the command names first; relative `artifacts` are
    beside the experiment. Raises SearchError where a path would mean nothing there, and where no
    cluster takes the job.
    """
    if experiment is None:
        raise SearchError(f"--submit needs --experiment: a path on the cluster, {_EXAMPLE}.")
    for path in (experiment, *files, *_named_in(studies)):
        if not path.is_absolute():
            raise SearchError(f"{path}: with --submit a path is one on the cluster, {_EXAMPLE}.")
    script, *words = sys.argv
    for option, value in (
        ("--space", f"{_SPACES}/{spaces[0].name}"),
        ("--address", "auto"),
        ("--artifacts", experiment.parent / artifacts),
    ):
        words = [*_without(words, option), option, str(value)]
    words = [word for word in words if word != "--submit"]
    entrypoint = shlex.join(["python", f"launch/{Path(script).name}", *words])
    client, place = _connect(address)
    made_by = commit()
    with TemporaryDirectory() as package:
        _pack(Path(package), Path(script).parent, spaces)
        job = client.submit_job(
            entrypoint=entrypoint,
            runtime_env={
                "working_dir": package,
                "env_vars": {} if made_by is None else {COMMIT: made_by},
            },
            metadata={
                "study": " and ".join(study.name for study in studies),
                "experiment": str(experiment),
            },
        )
    asks = os.environ.get(authentication.AUTH_MODE_ENV_VAR) == "token"
    token = "RAY_AUTH_MODE=token " if asks else ""
    print(f"job {job}: {entrypoint}")
    for purpose, verb in (("follow", "logs --follow"), ("stop", "stop"), ("state", "status")):
        print(f"{purpose:7} {token}ray job {verb} --address {place} {job}")
    print("Stopped or lost, it goes on by the same command with --resume.")


def _named_in(studies: Sequence[Study]) -> Iterator[Path]:
    """The files that the studies name themselves, not those still to be made."""
    for study in studies:
        training = dotted(study.training)
        for key in _FILES:
            if training.get(key) not in (None, str(LATER)):
                yield Path(str(training[key]))


def _without(words: Iterable[str], option: str) -> Iterator[str]:
    """A command line but for one option, given as two words or as one."""
    rest = iter(words)
    for word in rest:
        if word == option:
            next(rest)
        elif not word.startswith(f"{option}="):
            yield word


def _connect(address: str | None) -> tuple[JobSubmissionClient, str]:
    """The cluster's jobs, and where they are. The token is Ray's: RAY_AUTH_TOKEN or its file."""
    place = address or next((os.environ[key] for key in _ADDRESS if os.environ.get(key)), None)
    if place is None:
        raise SearchError(
            "--submit needs --address, the URL of the cluster's dashboard: http://127.0.0.1:8265 "
            "while `ray dashboard cluster.yaml` runs."
        )
    if not place.startswith(("http://", "https://")):
        raise SearchError(
            f"{place}: with --submit the address is the URL of the cluster's dashboard, such as "
            "http://127.0.0.1:8265."
        )
    os.environ[_ADDRESS[0]] = place  # which Ray would otherwise put before what it is told
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)
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


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".")


def _pack(package: Path, scripts: Path, spaces: Sequence[Path]) -> None:
    leave = shutil.ignore_patterns("__pycache__", "*.schema.json")
    shutil.copytree(Path(spinlock.__file__).parent, package / "spinlock", ignore=leave)
    shutil.copytree(scripts, package / "launch", ignore=leave)
    for space in spaces:  # the others are named by the first, from where it stands
        there = package / _SPACES / space.relative_to(spaces[0].parent)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(space, there)
