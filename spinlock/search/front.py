"""How the Pareto front of a search with several objectives grew: who was on it, and its volume."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from spinlock.files import atomic_file
from spinlock.search.events import State
from spinlock.search.hypervolume import placed, volume
from spinlock.search.ledger import Ledger
from spinlock.search.pareto import Scores, fronts


@dataclass(frozen=True)
class Front:
    """The completed trials that no other dominated, from `time` on.

    `epochs` is what the whole search had trained by then. `hypervolume` is a share of the box from
    the best values to a tenth beyond the worst, of all trials that have completed by now.
    """

    time: float
    epochs: int
    trials: tuple[int, ...]
    hypervolume: float


def front_history(ledger: Ledger) -> list[Front]:
    """Each front in turn, of the trials that completed; their volumes never fall."""
    goals = ledger.study.goals
    done = sorted(
        (trial.ended, trial.number)
        for trial in ledger.trials.values()
        if trial.state() == State.COMPLETED and trial.ended is not None
    )
    scores: dict[int, Scores] = {}
    for _, number in done:
        if (best := ledger.trials[number].best(goals)) is not None:
            scores[number] = best[1]
    costs = placed([*scores.values()], goals, percentile=100.0) if scores else ()
    at = dict(zip(scores, costs, strict=True))
    history: list[Front] = []
    seen: dict[int, Scores] = {}
    for ended, number in done:
        if number not in scores:
            continue
        seen[number] = scores[number]
        front = tuple(fronts(seen, goals)[0])
        if not history or front != history[-1].trials:
            filled = volume(np.stack([at[n] for n in front]), reference=1.1)
            history.append(Front(ended, ledger.trials[number].spent, front, filled))
    return history


def grown(ledger: Ledger) -> list[str]:
    """The front's volume in a line: now, and when half of the epochs had been trained."""
    history = front_history(ledger)
    if not history:
        return []
    early = [front for front in history if front.epochs <= ledger.epochs / 2]
    before = f"{early[-1].hypervolume:.3f}" if early else "0"
    return [
        f"hypervolume  {history[-1].hypervolume:.3f} of the box between the best and the worst; "
        f"{before} after half of the epochs"
    ]


def draw_front(ledger: Ledger, path: Path) -> None:
    """Each two objectives against each other, the front marked; and its volume over epochs."""
    import matplotlib as mpl  # half a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    goals, history = ledger.study.goals, front_history(ledger)
    leading = history[-1].trials if history else ()
    pairs = list(combinations(range(len(goals)), 2))
    figure, axes = plt.subplots(
        1, len(pairs) + 1, figsize=(4 * len(pairs) + 4, 4), layout="constrained"
    )
    for (a, b), ax in zip(pairs, axes, strict=False):
        for trial in ledger.trials.values():
            best = trial.best(goals)
            if best is None or trial.state() not in (State.COMPLETED, State.PRUNED, State.PAUSED):
                continue
            x, y = best[1][a], best[1][b]
            whole = trial.state() == State.COMPLETED
            ax.plot(x, y, "o", color="tab:red" if trial.number in leading else "tab:gray",
                    fillstyle="full" if whole else "none")  # fmt: skip
            if trial.number in leading:
                ax.annotate(f"{trial.number}", (x, y), fontsize=8)
        ax.set(xlabel=f"{goals[a].metric} ({goals[a].mode})",
               ylabel=f"{goals[b].metric} ({goals[b].mode})")  # fmt: skip
    epochs = [front.epochs for front in history]
    volumes = [front.hypervolume for front in history]
    axes[-1].step([*epochs, ledger.epochs], [*volumes, *volumes[-1:]] or [0], where="post")
    axes[-1].set(xlabel="epochs of the search", ylabel="hypervolume of the front", ylim=(0, 1))
    figure.suptitle(f"{ledger.study.name}: the front (red), others completed, not completed (open)")
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=110)
    plt.close(figure)
