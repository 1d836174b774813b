"""Three hosts under `ray up`, two searches, one lost host: what survives, as a transcript.

    python benchmarks/cluster/drill.py        as root, with sshd, rsync, iproute2, curl

The hosts are namespaces of this machine (hosts.sh); the file is clusters/local.yaml with its
CHANGE fields filled in, one CPU a worker, and without pip, since the hosts have no way out. The
same search runs twice: sent with --submit from outside the cluster, and a worker host is killed
under it; then with --address on the head. Compared are the logs: the killed search's at the
kill against its own at the end, and its numbers against those of the other.
Writes benchmarks/results/cluster.md.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from spinlock.artifact import provenance
from spinlock.search.ledger import EVENTS, Ledger, read_ledger

ROOT = Path(__file__).resolve().parents[2]
HOSTS = Path(__file__).parent / "hosts.sh"
SHIPPED = ROOT / "clusters" / "local.yaml"
SPACE = Path(__file__).parent / "drill.yaml"
RESULT = ROOT / "benchmarks" / "results" / "cluster.md"
DASHBOARD = "http://127.0.0.1:8265"
WORKERS = {"w1": "10.77.0.11", "w2": "10.77.0.12"}
_MACHINE = ("seconds", "peak_memory_bytes")  # metrics of the machine, not of the run
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \S+\s+[A-Z]+ \S+ -- ")  # by Ray, for its developers


class Drill:
    """The hosts in one directory, and what was done on them and when."""

    def __init__(self, place: Path) -> None:
        self.place, self.begun, self.said = place, time.monotonic(), list[str]()
        self.file = place / "local.yaml"

    def hosts(self, *words: object) -> None:
        subprocess.run(["bash", str(HOSTS), *map(str, words)], check=True)

    def run(self, host: str, command: str, *, show: bool = True, fails: bool = False) -> str:
        """Run a command on a host; its output, which is shown with the time it took."""
        since = time.monotonic()
        done = subprocess.run(
            self._words(host, command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        output = self._plain(done.stdout)
        if show:
            self.tell(f"{host}$ {self._plain(command)}   # {time.monotonic() - since:.0f} s")
            self.tell(*(line for line in output.splitlines() if not _LOGGED.match(line)))
        if (done.returncode != 0) != fails:
            raise SystemExit(f"{host}: {command}: exit {done.returncode}\n{output}")
        return output

    def tell(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            self.said.append(line)

    def mark(self, what: str) -> None:
        self.tell(f"# at {time.monotonic() - self.begun:.0f} s: {what}")

    def until(self, holds: Callable[[], bool], what: str, seconds: int = 300) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: not within {seconds} s")
            time.sleep(1)
        self.mark(what)

    def _words(self, host: str, command: str) -> list[str]:
        there = "cd ~/spinlock; " if host == "ctl" else ""
        path = f"export PATH={self.place}/home/venv/bin:$PATH RAY_AUTH_MODE=token; "
        return ["bash", str(HOSTS), "in", str(self.place), host, f"{path}{there}{command}"]

    def _plain(self, text: str) -> str:
        """Without escape codes, and with the paths of a real cluster."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)
        for here, there in (
            (f"{self.place}/shared", "/shared"),
            (f"{self.place}/home", "~"),
            (f"{self.file}", "clusters/local.yaml"),
            (f"{ROOT}", "."),
        ):
            text = text.replace(here, there)
        return text.rstrip()

    @contextmanager
    def background(self, host: str, command: str) -> Iterator[None]:
        self.tell(f"{host}$ {self._plain(command)} &")
        with subprocess.Popen(
            self._words(host, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as going:
            try:
                yield
            finally:
                going.terminate()

    def experiment(self, name: str) -> Path:
        return self.place / "nfs" / name

    def ledger(self, name: str) -> Ledger:
        begun = (self.experiment(name) / EVENTS).is_file()
        return read_ledger(self.experiment(name)) if begun else Ledger()

    def snapshot(self, name: str) -> dict[int, int]:
        """The last epoch that each trial has acknowledged by now."""
        return {trial.number: trial.epochs for trial in self.ledger(name).trials.values()}


def fill_in(drill: Drill) -> None:
    """clusters/local.yaml with its fields changed as its user would change them, and no pip."""
    text = SHIPPED.read_text(encoding="utf-8")
    for shipped, ours in (
        ("head_ip: 192.0.2.10 ", "head_ip: 10.77.0.10 "),
        ("[192.0.2.11, 192.0.2.12]", f"[{', '.join(WORKERS.values())}]"),
        ("ssh_user: spinlock ", "ssh_user: root "),
        ("/home/spinlock/", f"{drill.place}/home/"),
        ("ray start --address", "ray start --num-cpus=1 --address"),
        ("  - cd ~/spinlock && ~/venv/bin/pip install -q -c constraints.txt -e .\n", ""),
    ):
        if shipped not in text:
            raise SystemExit(f"{SHIPPED}: {shipped!r} does not stand there")
        text = text.replace(shipped, ours)
    drill.file.write_text(text, encoding="utf-8")


def lead(drill: Drill) -> None:
    """Up, refuse what is not shared, submit and kill, the same again undisturbed, down."""
    file, shared = drill.file, f"{drill.place}/shared"
    search = "python launch/tune_noa.py --space benchmarks/cluster/drill.yaml"
    submit = f"{search} --submit --address {DASHBOARD}"
    kept, told = f"--artifacts {shared}/artifacts", "'crashed|attempt|^best|^trials|^time'"

    def on_head(command: str) -> str:
        return f"ray exec {file} {shlex.quote(command)} 2>/dev/null"

    drill.run("ctl", "ray get-auth-token --generate >/dev/null 2>&1; chmod 600 ~/.ray/auth_token")
    drill.run(
        "ctl", f"RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache {file} &> ~/up.log"
    )
    drill.until(
        lambda: " 3 local.cluster.node" in drill.run("ctl", on_head("ray status"), show=False),
        "head and two workers are up",
    )
    drill.run("head", "ls -l ~/.ray/auth_token; ss -Hltn | awk '{print $4}' | sort -V | xargs")
    with drill.background("ctl", f"ray dashboard {file}"):
        drill.until(lambda: _code(drill, "") != "000", "the tunnel to the dashboard is open")
        for token, header in (("no", ""), ("a wrong", f'-H "Authorization: Bearer {"0" * 64}"')):
            drill.tell(f"# the dashboard's jobs for {token} token: HTTP {_code(drill, header)}")
        drill.run("w1", "curl -sS http://10.77.0.10:8265/", fails=True)

        job = _job(drill.run("ctl", f"{submit} --experiment {drill.place}/home/private {kept}"))
        drill.until(lambda: "failed" in _status(drill, job), "the search refuses to start")
        drill.run("ctl", f"ray job logs --address {DASHBOARD} {job} 2>/dev/null | grep Error:")

        job = _job(drill.run("ctl", f"{submit} --experiment {shared}/submitted {kept}"))
        drill.until(
            lambda: sum(drill.snapshot("submitted").values()) >= 8, "8 epochs are acknowledged"
        )
        before = (drill.experiment("submitted") / EVENTS).read_bytes()
        killed = drill.snapshot("submitted")
        drill.hosts("kill", drill.place, "w2")
        drill.mark("w2 loses its cable, and all of its processes are killed")
        drill.until(
            lambda: any(t.crashes for t in drill.ledger("submitted").trials.values()),
            "Ray tells the search of it",
        )
        drill.until(
            lambda: drill.ledger("submitted").sessions[-1].closed is not None,
            "the search has finished",
            1200,
        )
        drill.run("ctl", f"ray job logs --address {DASHBOARD} {job} 2>/dev/null | grep -E {told}")

    joined = f"{search} --address auto --experiment {shared}/joined {kept}"
    drill.run("ctl", on_head(f"cd ~/spinlock; {joined} | grep -E {told}"))
    compare(drill, before, killed)
    down = f"python clusters/down.py {file} 2>/dev/null | grep -E '^10|No nodes'"
    drill.run("ctl", f"set -o pipefail; {down}", fails=True)  # w2 is not there
    for host in ("head", "w1"):
        left = drill.run(host, "ps -eo args | grep -c '[r]ay[:/]' || true", show=False)
        drill.tell(f"# processes of Ray left on {host}: {left}")


def compare(drill: Drill, before: bytes, killed: dict[int, int]) -> None:
    """Say what the kill cost, and end with an error if it was more than it may be."""
    after = (drill.experiment("submitted") / EVENTS).read_bytes()
    ours, other = (read_ledger(drill.experiment(name)) for name in ("submitted", "joined"))
    lost = [trial for trial, epochs in killed.items() if ours.trials[trial].epochs < epochs]
    same = _numbers(ours) == _numbers(other)
    drill.tell(
        f"# acknowledged at the kill: {sum(killed.values())} epochs of {len(killed)} trials",
        f"# the log at the kill begins the log at the end: {after.startswith(before)}",
        f"# acknowledged epochs lost: {len(lost)}",
        f"# epochs at the end: {sum(len(t.history) for t in ours.trials.values())} of "
        f"{len(ours.trials)} trials, {sum(t.attempts for t in ours.trials.values())} attempts, "
        f"{sum(len(t.crashes) for t in ours.trials.values())} crash",
        f"# every metric of every epoch equals that of the undisturbed search: {same}",
    )
    if lost or not same or not after.startswith(before):
        raise SystemExit("something was lost")


def _numbers(ledger: Ledger) -> dict[tuple[int, int], dict[str, float]]:
    return {
        (trial.number, epoch): {k: v for k, v in metrics.items() if k not in _MACHINE}
        for trial in ledger.trials.values()
        for epoch, metrics in trial.history.items()
    }


def _job(output: str) -> str:
    (job,) = re.findall(r"^job (\w+):", output, re.MULTILINE)
    return str(job)


def _status(drill: Drill, job: str) -> str:
    return drill.run("ctl", f"ray job status --address {DASHBOARD} {job} 2>&1", show=False)


def _code(drill: Drill, header: str) -> str:
    """The answer of the jobs' page to this header, as HTTP has it; 000 for none."""
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' {header} {DASHBOARD}/api/jobs/ || true"
    return drill.run("ctl", ask, show=False)


def main(
    place: Annotated[
        Path, typer.Option(help="A directory to be made, not in /tmp; on an error it stays.")
    ] = Path("/var/tmp/spinlock-hosts"),
) -> None:
    """Lead the drill and write the transcript."""
    place.mkdir(parents=True)
    made = provenance()  # before: the hosts get this commit, whatever is edited meanwhile
    drill = Drill(place)
    drill.hosts("up", place, Path(sys.prefix))
    try:
        time.sleep(1)
        subprocess.run(
            ["git", "clone", "-q", str(ROOT), str(place / "hosts/ctl/home/spinlock")], check=True
        )
        fill_in(drill)
        lead(drill)
    finally:
        drill.hosts("down", place)
    write(drill.said, made)
    shutil.rmtree(place)


def write(said: list[str], made: dict[str, Any]) -> None:
    RESULT.write_text(
        "# Three hosts, one lost\n\n"
        f"Made by `python benchmarks/cluster/drill.py`, commit {made['commit']}, "
        f"{made['created'][:10]}, Ray {version('ray')}, {os.cpu_count()} cores for all hosts. "
        "`ctl` is the laptop, outside the cluster;\n"
        "what stands after a command is the time that it took.\n\n"
        "```text\n" + "\n".join(said) + "\n```\n"
    )


if __name__ == "__main__":
    typer.run(main)
