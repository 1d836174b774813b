"""Recorded runs: whole learning curves of our own trainers, to choose and certify decisions by.

    python benchmarks/record.py noa --work DIRECTORY [--jobs 2] [--configurations 192]
    python benchmarks/record.py vqvae --work DIRECTORY

Trains the points of benchmarks/curves/NAME.yaml to their end, with no scheduler and no guard, each
tenth a second time with another seed, then some that end by themselves: WILD learning rates, which
give NaN, and HUGE networks, which do not fit into the memory that a run is given. Each run is a
process of one thread under a real limit (RLIMIT_AS). Runs that stand in --work are not repeated.

Writes benchmarks/curves/NAME.parquet, and of it what decisions look at where the package ships it
(spinlock/search/recorded_runs/); a row per run and reported epoch: its parameters as
`param/<path>`, every metric with seconds and peak memory, `stop` and `sentence` where it ended
itself, and `half`: decisions are chosen on "choose" and tested on "test".
"""

import json
import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from spinlock.artifact import provenance
from spinlock.config import parse
from spinlock.errors import OutOfMemoryError
from spinlock.files import atomic_file
from spinlock.search import prepare
from spinlock.search.parameter import Scalar
from spinlock.search.recorded import SHIPPED, slim
from spinlock.search.space import Study
from spinlock.search.trainables import TRAINABLES

CURVES, DEFAULT = Path(__file__).parent / "curves", Path(__file__).parents[1] / "launch" / "default"
DATA = {"noa": CURVES / "operators.yaml", "vqvae": DEFAULT / "dataset-vqvae.yaml"}
FILES: dict[str, dict[str, Path | None]] = {
    "noa": {"data.path": None, "tokenizer": None},
    "vqvae": {"data.path": None},
}
JUDGED = {  # what guards, rungs and objectives may look at
    "noa": ("val/traj", "val/commit", "val/latent"),
    "vqvae": (
        *("quality/composite", "quality/utilization", "val/loss", "val/reconstruction"),
        *("val/commitment", "val/relative_commitment"),
    ),
}
SECOND_SEED = 10  # of so many configurations one
MEMORY = 3 * 2**30  # bytes of address space that a run is given
WILD = {
    "noa": [10.0**power for power in range(1, 7)],
    "vqvae": [100.0**power for power in range(1, 7)],
}
HUGE: dict[str, tuple[str, tuple[int, ...]]] = {
    "noa": ("model.base_channels", (768, 1024)),
    "vqvae": ("model.hidden_dim", (131072, 262144)),
}

Name = Annotated[Literal["noa", "vqvae"], typer.Argument(help="What is trained.")]


def main(
    name: Name,
    work: Annotated[Path, typer.Option(help="Where data and finished runs are kept.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    configurations: Annotated[int | None, typer.Option(min=1, help="So many alone.")] = None,
) -> None:
    study = ready(name, work)
    points = dict(enumerate(study.sample(configurations or study.trials)))
    points |= dict(enumerate(beyond(name, points[0]), start=study.trials))
    wanted = [(number, seed) for number in points for seed in seeds(number, study)]
    missing = [run for run in wanted if not result(work, name, *run).exists()]
    context = get_context("forkserver")
    context.set_forkserver_preload(["spinlock.training.trainer", "spinlock.search.trainables"])
    begun, running = time.perf_counter(), dict[tuple[int, int], ForkServerProcess]()
    left = list(missing)
    while left or running:
        while left and len(running) < jobs:
            run = left.pop(0)
            arguments = (name, study, points[run[0]], run[1], result(work, name, *run))
            running[run] = context.Process(target=train, args=arguments)
            running[run].start()
        for run in [run for run, process in running.items() if not process.is_alive()]:
            ended(running.pop(run), result(work, name, *run))
            done = len(missing) - len(left) - len(running)
            each = (time.perf_counter() - begun) / done
            print(f"{done}/{len(missing)} runs, {each * len(left) / 60:.0f} min left", flush=True)
        time.sleep(0.05)
    write(name, study, points, wanted, work)


def ready(name: str, work: Path) -> Study:
    """The study with its data in place, made under `work` once."""
    trainable = TRAINABLES[name]
    study = prepare.plan(CURVES / f"{name}.yaml", trainable, (), files=FILES[name])
    recipes = prepare.Recipes(DATA[name], DEFAULT / "tokenizer.yaml", work / "artifacts")
    return prepare.fulfil(study, trainable, recipes, print).study


def beyond(name: str, point: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    """The point with what no sound space holds."""
    for rate in WILD[name]:
        yield point | {"optimizer.lr": rate, "optimizer.clip_norm": 1e9}
    key, widths = HUGE[name]
    for width in widths:
        yield point | {key: width}


def seeds(number: int, study: Study) -> tuple[int, ...]:
    return (0, 1) if number < study.trials and number % SECOND_SEED == 0 else (0,)


def result(work: Path, name: str, number: int, seed: int) -> Path:
    return work / name / f"{number}-{seed}.json"


def train(name: str, study: Study, point: dict[str, Scalar], seed: int, out: Path) -> None:
    """One run to its end, in a process of its own; a list of what it reported."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    trainable, rows = TRAINABLES[name], list[dict[str, Any]]()
    config = parse(
        trainable.model, study.configuration({**point, "seed": seed}), where=f"run {out.stem}"
    )
    try:
        for report in trainable.build(config).epochs():
            row: dict[str, Any] = {"epoch": report.epoch, **report.metrics}
            if report.stop is not None:
                row |= {"stop": report.stop.kind, "sentence": report.stop.sentence}
            rows.append(row)
    except OutOfMemoryError as error:
        rows.append({"epoch": len(rows) + 1, "stop": "memory", "sentence": str(error)})
    keep(out, rows)


def ended(process: ForkServerProcess, out: Path) -> None:
    """A native library that cannot allocate may end the process: that is a run's end, too."""
    process.join()
    if not out.exists():
        if not process.exitcode or process.exitcode > 0:
            raise SystemExit(f"{out.stem} ended with {process.exitcode}, by no limit of its own")
        sentence = f"the process ended by signal {-process.exitcode} under the limit of its memory"
        keep(out, [{"epoch": 1, "stop": "memory", "sentence": sentence}])


def keep(out: Path, rows: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as path:
        path.write_text(json.dumps(rows))


def write(
    name: str,
    study: Study,
    points: dict[int, dict[str, Scalar]],
    wanted: list[tuple[int, int]],
    work: Path,
) -> None:
    """The table, with the study and the machine in its metadata."""
    rows = []
    for number, seed in wanted:
        own = {f"param/{key}": value for key, value in points[number].items()}
        run = {"configuration": number, "seed": seed, "half": ("choose", "test")[number % 2]}
        rows += [
            run | own | row for row in json.loads(result(work, name, number, seed).read_text())
        ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    facts = {
        "study": study.model_dump_json().replace(f"{work.resolve()}/", ""),  # of no machine
        "provenance": json.dumps(provenance()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread a run",
    }
    table = table.replace_schema_metadata(facts)
    for place, part in ((CURVES, table), (SHIPPED, slim(table, JUDGED[name]))):
        with atomic_file(place / f"{name}.parquet") as path:
            pq.write_table(part, path, compression="zstd")
    ends = Counter(row["stop"] for row in rows if "stop" in row)
    print(
        f"{CURVES / name}.parquet: {len(rows)} epochs of {len(wanted)} runs; by themselves ended "
        f"{dict(ends)}"
    )


if __name__ == "__main__":
    typer.run(main)
