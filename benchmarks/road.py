"""The whole road, driven and measured: python benchmarks/road.py --data FILE.h5

Runs the project's own commands as a user would, from nothing: the default search, a search that
provokes every kind of stop on the given file, a search whose driver is killed with SIGKILL and
resumed, and the export of each best model with its re-evaluation. Writes what was seen, with the
machine, to benchmarks/results/road.md.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from spinlock.artifact import provenance
from spinlock.search.events import Reported, Started, read_events

ROOT = Path(__file__).resolve().parents[1]


class Road:
    """Runs commands in a scratch directory and collects sections of the report."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.sections: list[str] = []

    def command(self, script: str, *arguments: str | Path) -> list[str]:
        return [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)]

    def search(self, name: str, *arguments: str | Path) -> tuple[float, str]:
        """Run a search to its end; wall seconds and what it printed."""
        begun = time.perf_counter()
        done = subprocess.run(
            self.tune(name, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return time.perf_counter() - begun, done.stdout

    def tune(self, name: str, *arguments: str | Path) -> list[str]:
        places = ("--experiment", self.scratch / name, "--artifacts", self.scratch / "artifacts")
        return self.command("tune_noa.py", *arguments, *places)

    def trials(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(
            self.scratch / name / "trials.parquet"
        ).to_pylist()
        return rows

    def export(self, name: str) -> str:
        done = subprocess.run(
            self.command(
                "export_best.py", self.scratch / name, "--out", self.scratch / f"{name}-best"
            ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.replace(str(self.scratch), "SCRATCH")

    def tell(self, title: str, command: list[str], *texts: str) -> None:
        shown = " ".join(command[1:]).replace(f"{ROOT}/", "").replace(str(self.scratch), "SCRATCH")
        body = "\n\n".join(text.strip() for text in texts if text.strip())
        self.sections.append(f"## {title}\n\n    python {shown}\n\n{body}\n")
        print(self.sections[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a real file for the second search")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "road.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        road = Road(Path(scratch))
        default_search(road)
        if options.data is not None:
            provoked_search(road, options.data.resolve())
        killed_search(road)
    facts = provenance()
    head = (
        "# The whole road\n\n"
        "Made by `python benchmarks/road.py --data ns_kolmogorov_exponax.h5`, commit "
        f"{facts['commit']}, {facts['created'][:10]}.\n"
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, no GPU; Python "
        f"{platform.python_version()}, torch {facts['versions']['torch']}.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join([head, *road.sections]))


def default_search(road: Road) -> None:
    arguments = ("--space", "search_spaces/latent.yaml")
    seconds, said = road.search("latent", *arguments)
    more, said = road.search("latent", *arguments, "--trials", "12", "--resume")
    road.tell(
        "The default search, on generated data, under Ray Train",
        road.tune("latent", *arguments),
        f"From nothing {seconds:.0f} s; then two trials more by `--trials 12 --resume` in "
        f"{more:.0f} s. All twelve:",
        stops(road.trials("latent")),
        fenced(summary(said)),
        "Export and re-evaluation:",
        fenced(road.export("latent")),
    )


def provoked_search(road: Road, data: Path) -> None:
    arguments = ("--space", "search_spaces/provoking.yaml", "--data", data)
    seconds, said = road.search("provoked", *arguments)
    command = [part.replace(str(data), data.name) for part in road.tune("provoked", *arguments)]
    road.tell(
        f"A search that goes wrong on purpose, on {data.name}",
        command,
        f"{seconds:.0f} s, the training of a tokenizer on the file included.",
        stops(road.trials("provoked")),
        fenced(summary(said)),
        fenced(road.export("provoked")),
    )


def killed_search(road: Road) -> None:
    """SIGKILL the driver in the middle, resume, and count what was lost or done twice."""
    fast = ("--set", "resources.execution=in_process", "--set", "training.epochs=4")
    arguments = ("--space", "search_spaces/latent.yaml", *fast)
    command = road.tune("killed", *arguments)
    driver = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = road.scratch / "killed" / "events.jsonl"
    while driver.poll() is None and reported(log) < 13:
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = [event for event in read_events(log) if isinstance(event, Reported)]
    subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, check=True)
    events = list(read_events(log))
    after = [event for event in events if isinstance(event, Reported)]
    epochs = Counter((event.trial, event.epoch) for event in after)
    attempts = Counter(event.trial for event in events if isinstance(event, Started))
    trials = road.trials("killed")
    road.tell(
        "SIGKILL of the driver, then --resume",
        [*command, "--resume"],
        f"Killed after {len(before)} acknowledged epochs. After the resume: "
        f"{len(trials)} trials, each once; {len(after)} epochs, "
        f"{sum(count - 1 for count in epochs.values())} acknowledged twice; the first "
        f"{len(before)} as they were: {after[: len(before)] == before}; trials taken up again: "
        f"{sorted(trial for trial, count in attempts.items() if count > 1)}.",
        stops(trials),
    )


def reported(log: Path) -> int:
    """Acknowledged epochs in a log that is being written."""
    return log.read_bytes().count(b'"event":"epoch"') if log.is_file() else 0


def stops(trials: list[dict[str, Any]]) -> str:
    """How many trials ended by each rule, and one sentence of each."""
    by_rule: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        by_rule.setdefault(trial["rule"], []).append(trial)
    rows = [
        f"| {rule} | {len(ended)} | trial {ended[0]['trial']}: {ended[0]['reason']} |"
        for rule, ended in sorted(by_rule.items())
    ]
    return "\n".join(["| ended by | trials | for example |", "|---|---|---|", *rows])


def summary(said: str) -> str:
    """From the best trial on."""
    lines = said.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("best "))
    return "\n".join(line.rstrip() for line in lines[start:] if not line.startswith("Next:"))


def fenced(text: str) -> str:
    return f"```\n{text.strip()}\n```"


if __name__ == "__main__":
    main()
