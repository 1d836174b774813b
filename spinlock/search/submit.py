"""A launch script's command, sent to a cluster: a Ray job that runs it there with this code.

The package, the launch scripts and the study's files travel in the job. Data and results do not:
their paths are those of the storage that the cluster's nodes share.
"""

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import spinlock
from spinlock.artifact import COMMIT, commit
from spinlock.config import dotted
from spinlock.errors import SearchError
from spinlock.location import Uri, located
from spinlock.search.jobs import COMMAND, EXPERIMENT, GRACE, STUDY, connect, send
from spinlock.search.prepare import LATER
from spinlock.search.space import Study
from spinlock.search.storage import file_of

_FILES = ("data.path", "tokenizer", "features_cache")  # settings of a training that name a file
_SPACES = "search_spaces"
_EXAMPLE = "absolute and on storage that all nodes share, such as /shared/experiments/latent"


def submit(
    spaces: Sequence[Path],
    studies: Sequence[Study],
    files: Sequence[Path | Uri],
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
        if isinstance(path, Path) and not path.is_absolute():
            raise SearchError(f"{path}: with --submit a path is one on the cluster, {_EXAMPLE}.")
    script, *words = sys.argv
    script = f"launch/{Path(script).name}"
    words = [word for word in words if word != "--submit"]
    again = [word for word in _without(words, "--address") if word != "--resume"]
    for option, value in (
        ("--space", f"{_SPACES}/{spaces[0].name}"),
        ("--address", "auto"),
        ("--artifacts", experiment.parent / artifacts),
    ):
        words = [*_without(words, option), option, str(value)]
    client, place = connect(address)
    made_by = commit()
    with TemporaryDirectory() as package:
        pack(Path(package), spaces, Path(sys.argv[0]).parent)
        job = send(
            client,
            entrypoint=shlex.join(["python", script, *words]),
            runtime_env={
                "working_dir": package,
                "env_vars": GRACE | ({} if made_by is None else {COMMIT: made_by}),
            },
            metadata={
                STUDY: " and ".join(study.name for study in studies),
                EXPERIMENT: str(experiment),
                COMMAND: shlex.join([script, *again]),
            },
        )
    print(f"job {job}: {shlex.join(['python', script, *words])}")
    for verb in ("status -f", "logs -f", "stop", "resume", "fetch"):
        print(f"  spinlock {verb:9} {experiment} --address {place}")


def _named_in(studies: Sequence[Study]) -> Iterator[Path | Uri]:
    """The files that the studies name themselves, not those still to be made."""
    for study in studies:
        yield from study.warm_start
        if study.storage is not None and (database := file_of(study.storage)) is not None:
            yield database
        training = dotted(study.training)
        for key in _FILES:
            if training.get(key) not in (None, str(LATER)):
                yield located(str(training[key]))


def _without(words: Iterable[str], option: str) -> Iterator[str]:
    """A command line but for one option, given as two words or as one."""
    rest = iter(words)
    for word in rest:
        if word == option:
            next(rest)
        elif not word.startswith(f"{option}="):
            yield word


def pack(package: Path, spaces: Sequence[Path] = (), scripts: Path | None = None) -> None:
    """Fill a directory with what a job needs of this checkout: package, scripts, studies."""
    leave = shutil.ignore_patterns("__pycache__", "*.schema.json")
    shutil.copytree(Path(spinlock.__file__).parent, package / "spinlock", ignore=leave)
    if scripts is not None:
        shutil.copytree(scripts, package / "launch", ignore=leave)
    for space in spaces:  # the others are named by the first, from where it stands
        there = package / _SPACES / space.relative_to(spaces[0].parent)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(space, there)
