"""The bench as tables and a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from spinlock.artifact import provenance
from spinlock.search import bench
from spinlock.search.bench import Maker, Method, Row, by, everything, one_epoch_then_three, ours
from spinlock.search.bench_fronts import LOSSES, fronts_kept
from spinlock.search.bench_peers import optuna_pruner, ray_asha
from spinlock.search.bench_syne import installed, syne_asha
from spinlock.search.certificate import CERTIFIED, certify
from spinlock.search.recorded import Recorded, Run
from spinlock.search.space import Promotion

_NAN_EVERY, _NAN_FROM = 9, 4


@dataclass(frozen=True)
class Report:
    """Markdown, and the rows of its first table."""

    text: str
    rows: list[Row]


def report(recorded: Recorded, name: str, *, seeds: int, size: int, jobs: int) -> Report:
    """Every method on pools of the half for testing, and on the same with runs that go NaN."""
    chosen = bench.choose_rungs(recorded, seeds=seeds, size=size, jobs=jobs)
    guards = [guard.model_dump() for guard in CERTIFIED.get(name, ())]
    every, test = methods(chosen, guards), recorded.half("test")
    given = bench.pools(test, size, seeds)
    rows = bench.measure(every, given, recorded, jobs=jobs)
    sound = [run for run in test if run.stop is None]
    sick = [
        [_turned(run) if i % _NAN_EVERY == 0 else run for i, run in enumerate(pool)]
        for pool in bench.pools(sound, min(size, len(sound)), max(2, seeds // 4))
    ]
    sick_rows = bench.measure(every, sick, recorded, jobs=jobs)
    goal, facts = recorded.objective, provenance()
    lines = [
        f"# Decisions on recorded runs: {name}",
        "",
        f"Made by `spinlock bench {name}`, commit {facts['commit']}, {facts['created'][:10]}; runs "
        f"recorded on {recorded.facts.get('machine', 'a machine that is not told')}.",
        "",
        f"{len(test)} runs of {recorded.epochs} epochs, the half that nothing was chosen on; "
        f"{seeds} pools of {size} of them, four workers in simulated time. A pool's best is found "
        f"within {bench.WITHIN:.0%} by {goal.metric} ({goal.mode}). Small runs: they order "
        "methods, and do not say what yours will save.",
        "",
        f"Rungs chosen on the other half: {list(chosen.rungs)}, factor "
        f"{chosen.reduction_factor:g}.",
        "",
        "| method | epochs | of all | best found | 95 % | regret |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.method} | {row.epochs:.0f} | {row.share:.1%} | {row.hit:.2f} | "
            f"{row.interval[0]:.2f} to {row.interval[1]:.2f} | "
            f"{row.regret:.1%} ± {1.96 * row.regret_error:.1%} |"
            for row in rows
        ),
        "",
        f"{len(sick)} pools of {len(sick[0])} runs that end by nothing of their own, every "
        f"{_NAN_EVERY}th made NaN from epoch {_NAN_FROM} on:",
        "",
        "| method | epochs | NaN epochs | best found |",
        "|---|---|---|---|",
        *(
            f"| {row.method} | {row.epochs:.0f} | {row.nonfinite:.1f} | {row.hit:.2f} |"
            for row in sick_rows
        ),
        "",
        "Guards, alone and together, on the same half; of the best tenth they may stop none:",
        "",
        "| guard | stops | of the best | at most, 95 % | epochs saved |",
        "|---|---|---|---|---|",
    ]
    sets: list[tuple[str, list[Any]]] = [
        (_told(guard.model_dump(exclude_defaults=True), guard.kind), [guard])
        for guard in CERTIFIED.get(name, ())
    ]
    sets.append(("all of them", list(CERTIFIED.get(name, ()))))
    for told, group in sets:
        found = certify(group, test, goal)
        lines.append(
            f"| {told} | {found.stopped} of {found.runs} | {found.stopped_top} of {found.top} | "
            f"{found.bound:.0%} | {found.saved / found.epochs:.1%} |"
        )
    some = given[: max(2, seeds // 2)]
    if kept := fronts_kept(recorded, some, jobs=jobs):
        lines += ["", f"The front of {', '.join(LOSSES)}, in {len(some)} of the pools:", "", *kept]
    return Report("\n".join([*lines, ""]), rows)


def methods(chosen: Promotion, guards: Sequence[dict[str, Any]]) -> dict[str, Method]:
    """What is compared, by name: the baselines, others' code, ours."""
    promotion = chosen.model_dump()
    deciders: dict[str, Maker] = {
        "train everything": everything,
        "one epoch, finish the best three": one_epoch_then_three,
        "Optuna's median": optuna_pruner(optuna.pruners.MedianPruner(n_warmup_steps=1)),
        "Optuna's halving": optuna_pruner(
            optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        ),
        "Ray's ASHA": ray_asha,
        "asha": ours({"kind": "asha"}),
        "guards alone": ours({"kind": "none"}, guards),
        "promotion, rungs chosen": ours(promotion),
        "promotion, rungs chosen, guards": ours(promotion, guards),
        "promotion, rungs 2, 6, 18": ours({"kind": "promotion", "rungs": [2, 6, 18]}),
    }
    found = {name: by(make) for name, make in deciders.items()}
    return found | ({"Syne Tune's ASHA": syne_asha} if installed() else {})


def draw(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """How often the best is found over what is spent, with 95 % intervals."""
    import matplotlib as mpl  # half a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    colours = mpl.color_sequences["tab20"]
    for index, row in enumerate(rows):
        low, high = row.interval
        ax.errorbar(
            100 * row.share,
            row.hit,
            [[row.hit - low], [high - row.hit]],
            fmt="o" if row.method.startswith(("asha", "guards", "promotion")) else "s",
            color=colours[index % len(colours)],
            label=row.method,
        )
    ax.set(xlabel="epochs, % of training everything", ylabel="pools with the best found within 2 %")
    ax.set(title=title, ylim=(0, 1.05), xlim=(0, 105))
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _turned(run: Run) -> Run:
    """The run as it would report had it gone NaN, and trained on."""
    history = {
        epoch: dict.fromkeys(row, math.nan) | {"seconds": row.get("seconds", 1.0)}
        if epoch >= _NAN_FROM
        else row
        for epoch, row in run.history.items()
    }
    return replace(run, history=history)


def _told(settings: dict[str, Any], kind: str) -> str:
    given = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "kind")
    return f"{kind} ({given})" if given else kind
