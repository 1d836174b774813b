"""A search of a cluster, brought to this machine: what can be derived is derived here.

    <out>/events.jsonl      the log, through the Jobs API
    <out>/*.parquet         and the other tables, from the log
    <out>/optuna.journal    from the log too, for optuna-dashboard
    <out>/best/             the best trial's artifact, made on the cluster and copied through ssh

The Jobs API carries text, no files: weights come by `ray rsync-down`, or from storage that this
machine sees too.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ray.job_submission import JobSubmissionClient

from spinlock.errors import ArtifactError, SearchError
from spinlock.files import atomic_directory, atomic_file, own_directory, refuse_foreign
from spinlock.search import jobs
from spinlock.search.alone import LOCK
from spinlock.search.ledger import EVENTS, Ledger
from spinlock.search.remote import deserted, fold_log
from spinlock.search.results import choose, export
from spinlock.search.sampler import Sampler
from spinlock.search.submit import pack
from spinlock.search.tables import write_tables
from spinlock.search.trainable import Trainable

BEST = "best"
_EXPORT = (
    "from pathlib import Path; from spinlock.search import fetch, trainables; "
    "fetch.export_whole(Path({experiment!r}), Path({out!r}), trainables.TRAINABLES, {trial})"
)


def fetch_log(log: bytes, experiment: Path, out: Path, *, job: jobs.Job | None = None) -> Ledger:
    """Keep the log of `experiment`, a `job`'s, in directory `out`, with all that follows from it.

    Raises SearchError where `out` holds another search, or a log that goes further.
    """
    ledger = fold_log(experiment, log)
    ledger.gone = job is not None and deserted(ledger, job)
    if (out / LOCK).exists():
        raise SearchError(
            f"{out}: a search was run in this directory, and what is fetched is a copy of one. "
            "Choose another --out."
        )
    refuse_foreign(out, "what is fetched", {EVENTS})
    kept = out / EVENTS
    if kept.is_file() and not log.startswith(kept.read_bytes()):
        raise SearchError(
            f"{out}: holds another search, or more of this one, than {experiment} on the cluster. "
            "Choose another --out."
        )
    with atomic_file(own_directory(out, "what is fetched") / EVENTS) as path:
        path.write_bytes(log)
    write_tables(ledger, out)
    Sampler.open(out, ledger)
    return ledger


def chosen(ledger: Ledger, trial: int | None) -> tuple[int, int] | None:
    """The trial whose artifact is meant, and its best epoch; None where none has one yet.

    Raises SearchError where the choice is the user's.
    """
    found = choose(ledger, trial)
    return None if found is None else (found[0].number, found[1])


def export_there(client: JobSubmissionClient, experiment: Path, trial: int, epoch: int) -> Path:
    """Where the artifact of the trial's best epoch stands on the cluster; made if it does not."""
    place = experiment / "exported" / f"trial-{trial:05d}-epoch-{epoch:05d}"
    code = _EXPORT.format(experiment=str(experiment), out=str(place), trial=trial)
    with TemporaryDirectory() as package:
        pack(Path(package))
        there = shlex.quote(str(place))
        jobs.output(
            client, f"test -d {there} || python -c {shlex.quote(code)}", package=Path(package)
        )
    return place


def export_whole(
    experiment: Path, out: Path, trainables: Mapping[str, Trainable], trial: int
) -> None:
    """Export a trial, so that `out` is there only if the artifact gives its metrics again."""
    with atomic_directory(out) as beside:
        try:
            export(experiment, beside, trainables, trial=trial)
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(str(beside), str(out))) from None


def bring(place: Path, cluster: Path | None, out: Path) -> bool:
    """Copy an artifact that stands at `place` on the cluster; False where there is no way to it.

    `cluster` is the file that the cluster was made from: its ssh is used.
    """
    if place.is_dir():
        shutil.copytree(place, out, dirs_exist_ok=True)
        return True
    if cluster is None:
        return False
    ray = Path(sys.executable).with_name("ray")
    done = subprocess.run(
        [ray, "rsync-down", cluster, f"{place}/", f"{out}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not out.is_dir():
        told = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SearchError(f"ray rsync-down {cluster} {place}/ {out}/ failed: {told}")
    return True
