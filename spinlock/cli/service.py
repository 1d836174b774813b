"""Commands for searches on a cluster, from a machine that has its token and a way to its dashboard.

Ray is imported by each command, not here: it is most of a command's start.
"""

import runpy
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spinlock.cli.root import app
from spinlock.errors import SearchError

Search = Annotated[
    str, typer.Argument(help="Its experiment, its job, or its study: then the latest of that name.")
]
Address = Annotated[
    str | None, typer.Option(help="URL of the cluster's dashboard: http://127.0.0.1:8265.")
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="OPTIONS", help="Those of the launch script.")
]
_ANY = {"ignore_unknown_options": True}
_WIDTH = 1000  # of what is not a terminal: nothing is cut


@app.command("submit", context_settings=_ANY)
def submit_search(
    script: Annotated[Path, typer.Argument(help="launch/tune_noa.py or another of launch/.")],
    options: Options = None,
) -> None:
    """Send a search to the cluster at --address: the options are those of its launch script."""
    _launch(script, [*(options or ()), "--submit"])


@app.command("list")
def list_searches(address: Address = None) -> None:
    """Show the searches that were sent to a cluster, the latest first."""
    from spinlock.search import jobs, watch
    from spinlock.search.remote import fold_log, read_logs

    client, place = jobs.connect(address)
    there = jobs.searches(client)
    logs = read_logs(client, [job.experiment for job in there]) if there else {}
    rows = []
    for job in there:
        since = watch.age((job.ended or time.time()) - job.started) if job.started else ""
        own = {path: log for path, log in logs.items() if path.is_relative_to(job.experiment)}
        for path, log in own.items():
            try:
                ledger = fold_log(path, log)
                about = [ledger.study.name, job.status, *watch.standing(ledger), since]
            except SearchError as error:  # told in its row: the others are sound
                about = [job.study, job.status, "", "", str(error), since]
            rows.append([*about, str(path), job.id])
        if not own:
            rows.append([job.study, job.status, "", "", "", since, str(job.experiment), job.id])
    if not rows:
        print(f"{place}: no search was sent there.")
        return
    _console().print(watch.listing(rows))


@app.command("status")
def search_status(
    search: Search,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Show the trials of a search: of one on a cluster, or of an experiment on this machine."""
    from spinlock.search import jobs, remote, watch
    from spinlock.search.ledger import EVENTS, read_ledger

    console = _console()
    if address is None and (Path(search) / EVENTS).is_file():
        if follow:
            watch.show_live(console, watch.follow_here(Path(search)))
        watch.show(console, read_ledger(Path(search)))
        return
    client, _ = jobs.connect(address)
    job = jobs.find(client, search)
    logs = remote.read_logs(client, [job.experiment])
    path = remote.only(logs, job, search)
    if follow and not job.over:
        ledger = watch.show_live(console, remote.follow(client, job, path))
        job = jobs.find(client, job.id)
    else:
        ledger = remote.fold_log(path, logs[path])
    ledger.gone = remote.deserted(ledger, job)
    watch.show(console, ledger)
    console.print(f"job {job.id}: {jobs.find(client, job.id).status}", highlight=False)


@app.command("logs")
def search_logs(
    search: Search,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Print what a search on a cluster has said."""
    from spinlock.search import jobs

    client, _ = jobs.connect(address)
    for piece in jobs.logs(client, jobs.find(client, search), follow=follow):
        print(piece, end="", flush=True)


@app.command("stop")
def stop_search(search: Search, address: Address = None) -> None:
    """End a search on a cluster in good order: `spinlock resume` goes on with it."""
    from spinlock.search import jobs

    client, place = jobs.connect(address)
    job = jobs.find(client, search)
    seconds = jobs.stop(client, job)
    print(f"{job.experiment}: stopped after {seconds:.1f} s.")
    print(f"Go on with: spinlock resume {job.experiment} --address {place}")


@app.command("resume", context_settings=_ANY)
def resume_search(search: Search, options: Options = None, address: Address = None) -> None:
    """Send a search's command once more, with --resume; options after it stand in its place."""
    from spinlock.search import jobs

    client, place = jobs.connect(address)
    job = jobs.find(client, search)
    if not job.over:
        raise SearchError(f"{job.experiment}: job {job.id} runs it, it is {job.status}.")
    if not job.command:
        raise SearchError(
            f"{job.experiment}: job {job.id} does not say by which command it was sent. Give that "
            "once more, with --submit and --resume."
        )
    script, *words = shlex.split(job.command)
    _launch(Path(script), [*words, *(options or ()), "--submit", "--resume", "--address", place])


@app.command("fetch")
def fetch_search(
    search: Search,
    out: Annotated[Path, typer.Option(help="Directory for it here.")],
    address: Address = None,
    cluster: Annotated[
        Path | None, typer.Option(help="Its file for `ray up`, for what comes through ssh.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option(help="This trial's artifact, not the best's.")
    ] = None,
    weights: Annotated[bool, typer.Option(help="With the artifact.")] = True,
) -> None:
    """Bring a search here: its log, its tables, and the artifact of its best trial."""
    from spinlock.search import fetch, jobs, remote

    client, _ = jobs.connect(address)
    job = jobs.find(client, search)
    logs = remote.read_logs(client, [job.experiment])
    path = remote.only(logs, job, search)
    ledger = fetch.fetch_log(logs[path], path, out, job=job)
    print(f"{out}: {len(ledger.trials)} trials, {ledger.epochs} epochs, with their tables.")
    chosen = fetch.chosen(ledger, trial) if weights else None
    if chosen is None:
        return
    place = fetch.export_there(client, path, *chosen)
    told = f"trial {chosen[0]}, epoch {chosen[1]}"
    if fetch.bring(place, cluster, out / fetch.BEST):
        print(f"{out / fetch.BEST}: the artifact of {told}.")
    else:
        print(
            f"The artifact of {told} is {place} on the cluster, which this machine does not see: "
            "fetch again with --cluster, the cluster's file for `ray up`."
        )


def _launch(script: Path, words: list[str]) -> None:
    """Run a launch script in this process, as if it had been called."""
    if not script.is_file():
        raise SearchError(
            f"{script}: there is no such script here. Give the command in the checkout whose "
            "launch/ holds it."
        )
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
