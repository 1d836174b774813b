"""Does Optuna hear the truth of 200 trials, of which most fail, each in its way?

    python benchmarks/faulty_trials.py [--trials 200] [--seed 0]

A search of a small real NOA on Ray whose learning rates reach 1000 and whose processes are killed
by SIGKILL at moments that the seed draws. At its end the state, reason, parameters, values and
constraints of every trial in the study's storage are held against the log, every number against
training straight through, and the log against its own replay. Writes
benchmarks/results/faulty_trials.md; exits with 1 if one differs.
"""

import os
import platform
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import optuna
import typer
from fault_search import HEARD, OverError, Search, give_data
from psutil import NoSuchProcess

from spinlock.artifact import provenance
from spinlock.files import atomic_file
from spinlock.search.ledger import Ledger, read_ledger
from spinlock.search.space import Study
from spinlock.search.trial import Trial

RESULT = Path(__file__).parent / "results" / "faulty_trials.md"
HOSTILE = {
    "retries": 1,
    "guards": [{"kind": "commit_climb"}, {"kind": "divergence"}],
    "space": {
        "optimizer.lr": {"log_uniform": [1e-4, 1e3]},
        "loss.lambda_commit": {"log_uniform": [0.1, 3]},
    },
}


def main(
    trials: Annotated[int, typer.Option(min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    with TemporaryDirectory(prefix="faulty-") as scratch:
        give_data(Path(scratch))
        place = Path(scratch) / "search"
        place.mkdir()
        (place / "data.h5").symlink_to(Path(scratch) / "data.h5")
        moments = random.Random(seed)
        search = Search(place, moments, "", None, trials=trials, concurrent=2)
        search.study = Study.model_validate(search.study.model_dump() | HOSTILE)
        try:
            search.start()
            with suppress(OverError):
                while True:
                    for _ in range(moments.randint(2, 8)):
                        pid = search.training()
                    with suppress(NoSuchProcess, ProcessLookupError):
                        search.kill(pid)
            search.finish()
            ledger = read_ledger(search.experiment)
            text, wrong = page(ledger, search.heard(ledger), search.injected, seed)
        finally:
            search.end()
    with atomic_file(RESULT) as path:
        path.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if wrong else 0)


def differences(ours: Trial, theirs: optuna.trial.FrozenTrial) -> list[str]:
    """What of a trial the study does not have as the log has it."""
    verdict = ours.verdict
    sick = verdict.state in ("GUARDED", "INFEASIBLE")
    violated = {name for name, value in theirs.constraints.items() if value > 0}
    pairs = {
        "state": (theirs.state.name, HEARD.get(verdict.state, "PRUNED")),
        "reason": (theirs.user_attrs.get("reason"), verdict.sentence),
        "parameters": (theirs.params, ours.parameters),
        "last epoch": (theirs.last_step or 0, max(ours.history, default=0)),
        "constraint": (violated, {verdict.rule} if sick else set()),
    }
    if verdict.rule == "nonfinite":  # its last epoch has no value that could be told
        del pairs["last epoch"]
    return [what for what, (one, other) in pairs.items() if one != other]


def page(
    ledger: Ledger, trials: list[optuna.trial.FrozenTrial], kills: int, seed: int
) -> tuple[str, int]:
    """The table, and how many trials differ."""
    fates, wrong = Counter[tuple[str, str, str, str]](), list[str]()
    for number, ours in ledger.trials.items():
        found = differences(ours, trials[number])
        wrong += [f"trial {number}: {', '.join(found)}"] if found else []
        heard = trials[number]
        broken = ", ".join(name for name, value in heard.constraints.items() if value > 0)
        fates[str(ours.state()), ours.verdict.rule or "", heard.state.name, broken] += 1
    zombies = sum(not trial.state.is_finished() for trial in trials)
    retried = sum(trial.attempts > 1 for trial in ledger.trials.values())
    facts = provenance()
    lines = [
        "# What Optuna hears of faulty trials",
        "",
        f"Made by `python benchmarks/faulty_trials.py --trials {len(trials)} --seed {seed}`, "
        f"commit {facts['commit']}, {facts['created'][:10]}, on {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
        f"{len(trials)} trials of a small NOA on Ray, two at a time, TPE with ASHA, learning rates "
        f"up to 1000; {kills} times the process of a trial was killed, {retried} trials were "
        "retried.",
        "",
        "| the log says | rule | Optuna's state | constraint broken | trials |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(fate)} | {count} |" for fate, count in fates.most_common()),
        "",
        f"{zombies} zombies (trials that the study still holds for running), {len(wrong)} "
        "mislabelled (state, reason, parameters, last epoch or constraint other than the log's). "
        "Every number equals training straight through, and the log its own replay.",
        "",
        *wrong,
    ]
    return "\n".join(lines), len(wrong) + zombies


if __name__ == "__main__":
    typer.run(main)
