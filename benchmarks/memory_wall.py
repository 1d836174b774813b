"""A space with a memory wall, searched under a real limit: how many trials run out of memory?

    python benchmarks/memory_wall.py --work DIRECTORY [--trials 120] [--arms 3]

Every trial is a NOA trained by our trainer in a process whose address space is limited
(RLIMIT_AS) to ROOM beyond what it begins with. Three searches of the same seed, each by our
sampler: ours, which halves the micro-batch where memory runs out and calls infeasible what does
not fit at all; the same trials as a trainer without that would have ended, told to the sampler as
FAIL, which is how Ray tells them; and ours without a limit, which trains many of the largest
networks and takes the longest. Finished searches in --work are not repeated. Writes
benchmarks/results/memory_wall.md.
"""

import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from record import ready

from spinlock.artifact import provenance
from spinlock.config import parse
from spinlock.errors import OutOfMemoryError
from spinlock.files import atomic_file
from spinlock.search.book import Book
from spinlock.search.events import State
from spinlock.search.parameter import Scalar
from spinlock.search.ranking import leaders
from spinlock.search.rules import Stop
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.trainables import TRAINABLES

RESULT = Path(__file__).parent / "results" / "memory_wall.md"
ROOM = 300 * 2**20
ARMS = ("ours", "no halving, told as FAIL", "ours, no limit")
NOA = TRAINABLES["noa"]
SPACE = {
    "optimizer.lr": {"log_uniform": [1e-3, 0.1]},
    "batch_size": {"choice": [2, 4, 8, 16, 25]},
    "model.base_channels": {"choice": [4, 8, 16, 32, 64, 192]},
    "loss.lambda_commit": {"log_uniform": [0.01, 1]},
}


def main(
    work: Annotated[Path, typer.Option(help="Where the data is kept, as by record.py.")],
    trials: Annotated[int, typer.Option(min=1)] = 120,
    arms: Annotated[int, typer.Option(min=1, help="The first so many searches.")] = len(ARMS),
) -> None:
    given = ready("noa", work)
    fixed = {k: v for k, v in given.training.items() if k not in ("epochs", "data")}
    study = Study.model_validate(
        {
            "name": "wall",
            "trials": trials,
            "searcher": {"kind": "tpe"},
            "scheduler": {"kind": "none"},
            "training": fixed | {"epochs": 2, "data": {**given.training["data"], "operators": 32}},
            "space": SPACE,
        }
    )
    with ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(
                ARMS[:arms],
                pool.map(lambda arm: search(study, arm, work / "wall"), ARMS[:arms]),
                strict=True,
            )
        )
    text = page(found, trials)
    with atomic_file(RESULT) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def search(study: Study, arm: str, work: Path) -> dict[str, Any]:
    """One search, a trial after the other; what became of it, which is kept."""
    kept = work / f"{ARMS.index(arm)}-{study.trials}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    place = work / f"{ARMS.index(arm)}-{time.time_ns()}"
    begun = time.perf_counter()

    def config(values: dict[str, Scalar]) -> Any:
        return parse(NOA.model, study.configuration(values), where=arm)

    book = Book.open(
        place,
        study,
        trainable="noa",
        facts={},
        reporting=lambda trial: NOA.reporting(config(trial.parameters)),
        resume=False,
    )
    sampler, context = Sampler.open(place, book.ledger), get_context("forkserver")
    context.set_forkserver_preload(["spinlock.training.trainer", "spinlock.search.trainables"])
    ran_out = halved = 0
    for number in range(study.trials):
        trial = book.suggested(sampler.ask(number))
        out = place / f"{number}.json"
        arguments = (config(trial.parameters), out, None if arm == ARMS[2] else ROOM)
        process = context.Process(target=train, args=arguments)
        process.start()
        process.join()
        # A native library that cannot allocate may end the process.
        rows = json.loads(out.read_text()) if out.exists() else [{"stop": "memory"}]
        small = any(row.get("micro_batch", 1e9) < trial.parameters["batch_size"] for row in rows)
        short = rows[-1].get("stop") == "memory"
        halved += small and not short
        if short or (small and arm == ARMS[1]):
            ran_out += 1
            if arm == ARMS[1]:
                book.fail(number, "out of memory")
            else:
                stop = Stop("memory", "a single sample does not fit")
                book.report(number, 1, {}, stop)
        else:
            for epoch, row in enumerate(rows, start=1):
                book.report(number, epoch, row, None)
        sampler.tell(trial)
    (best,) = leaders(book.ledger)
    scored = best.best(study.goals)
    book.close()
    done = [t for t in book.ledger.trials.values() if t.state() == State.COMPLETED]
    found = {
        "ran out": ran_out,
        "halved": halved,
        "completed": len(done),
        "best": scored[1][0] if scored else float("nan"),
        "parameters": best.parameters,
        "minutes": (time.perf_counter() - begun) / 60,
    }
    with atomic_file(kept) as path:
        path.write_text(json.dumps(found))
    return found


def train(config: Any, out: Path, room: int | None) -> None:
    """One trial to its end, in a process of its own under its limit."""
    torch.set_num_threads(1)
    if room is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows: list[dict[str, Any]] = []
    try:
        for report in NOA.build(config).epochs():
            rows.append(dict(report.metrics))
            if report.stop is not None:
                rows[-1]["stop"] = report.stop.kind
    except OutOfMemoryError:
        rows.append({"stop": "memory"})
    with atomic_file(out) as path:
        path.write_text(json.dumps(rows))


def page(found: dict[str, dict[str, Any]], trials: int) -> str:
    facts = provenance()
    lines = [
        "# A memory wall",
        "",
        f"Made by `python benchmarks/memory_wall.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}.",
        f"{trials} trials of a NOA on 16x16, 8 steps, 2 epochs, TPE, seed 0; each in a process "
        f"that is given {ROOM // 2**20} MiB of address space beyond its first (RLIMIT_AS), "
        "so allocations fail for real.",
        "",
        "| | out of memory | micro-batch halved | completed | best val/traj | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for arm, row in found.items():
        lines.append(
            f"| {arm} | {row['ran out']} | {row['halved']} | {row['completed']} | "
            f"{row['best']:.4f} | {row['minutes']:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    typer.run(main)
