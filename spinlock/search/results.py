"""What a search found: its best checkpoint, and that as an artifact, judged again.

Best is the epoch that scored it: the checkpoint of a trial's best epoch is kept, not its last.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from spinlock import artifact
from spinlock.config import parse
from spinlock.errors import ArtifactError, SearchError
from spinlock.search.checkpoints import checkpoint_directory, trial_directory
from spinlock.search.ledger import Ledger, read_ledger
from spinlock.search.parameter import Scalar
from spinlock.search.pareto import Scores
from spinlock.search.ranking import leaders
from spinlock.search.trainable import Trainable
from spinlock.search.trial import Trial

# Two evaluations of one model differ by the order of floating-point sums: other batch sizes,
# thread counts or devices.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Best:
    """The epoch that a trial stands for, and its score on each objective."""

    trial: int
    epoch: int
    scores: Scores
    parameters: dict[str, Scalar]
    metrics: dict[str, float]
    checkpoint: Path


@dataclass(frozen=True)
class Exported:
    """An artifact, with its recorded validation metrics and those measured anew."""

    path: Path
    best: Best
    recorded: dict[str, float]
    measured: dict[str, float]

    @property
    def difference(self) -> float:
        """The largest relative difference between the two."""
        return max(
            (_difference(self.recorded[name], self.measured[name]) for name in self.recorded),
            default=0.0,
        )


def best(experiment: Path, *, trial: int | None = None) -> Best:
    """The best epoch of the search, or of one `trial`.

    Raises SearchError if there is none, or if several objectives leave the choice to the user.
    """
    ledger = read_ledger(experiment)
    try:
        found = choose(ledger, trial)
    except SearchError as error:
        raise SearchError(f"{experiment}: {error}") from None
    if found is None:
        raise SearchError(f"{experiment}: no healthy trial has finished an epoch yet.")
    chosen, epoch, scores = found
    return Best(
        trial=chosen.number,
        epoch=epoch,
        scores=scores,
        parameters=chosen.parameters,
        metrics=chosen.history[epoch],
        checkpoint=checkpoint_directory(trial_directory(experiment, chosen.number), epoch),
    )


def choose(ledger: Ledger, trial: int | None) -> tuple[Trial, int, Scores] | None:
    """The best trial, or the one that is asked for, its best epoch and the scores there.

    None where no trial is healthy, or that one has no healthy epoch. Raises SearchError where the
    choice is the user's, and where there is no such trial.
    """
    if trial is not None and trial not in ledger.trials:
        raise SearchError(f"there is no trial {trial} among {len(ledger.trials)}.")
    candidates = [ledger.trials[trial]] if trial is not None else leaders(ledger)
    if len(candidates) > 1:
        raise SearchError(
            "its objectives have no single best trial. Choose one of the Pareto front with "
            f"--trial: {', '.join(str(c.number) for c in candidates)}."
        )
    at = candidates[0].best(ledger.study.goals) if candidates else None
    return None if at is None else (candidates[0], *at)


def export(
    experiment: Path, out: Path, trainables: Mapping[str, Trainable], *, trial: int | None = None
) -> Exported:
    """Write the best epoch as an artifact in `out`, and evaluate it in a fresh process.

    Raises ArtifactError if the exported model does not reproduce its recorded validation
    metrics to rounding; the artifact is left for inspection.
    """
    ledger, found = read_ledger(experiment), best(experiment, trial=trial)
    opened = ledger.opened
    if opened is None or opened.trainable not in trainables:
        known = ", ".join(sorted(trainables))
        raise SearchError(f"{experiment}: its trainable is none of those known here: {known}.")
    trainable = trainables[opened.trainable]
    if not found.checkpoint.is_dir():
        raise SearchError(f"{found.checkpoint}: the checkpoint of the best epoch is not there.")
    values = ledger.study.configuration(found.parameters)
    config = parse(trainable.model, values, where=f"trial {found.trial}")
    trainable.export(
        config,
        found.checkpoint / "trainer",
        out,
        metrics={
            "epoch": found.epoch,
            **{name: value for name, value in found.metrics.items() if math.isfinite(value)},
        },
        provenance=artifact.provenance(
            experiment=experiment.name,
            trial=found.trial,
            parameters=found.parameters,
            seed=ledger.study.seed,
            study=opened.study,
            **opened.facts,
        ),
    )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        measured = fresh.submit(trainable.evaluate, out).result()
    recorded = {n: v for n, v in found.metrics.items() if _of_the_model(n) and n in measured}
    exported = Exported(out, found, recorded, measured)
    _require_equal(exported, ledger)
    return exported


def _require_equal(exported: Exported, ledger: Ledger) -> None:
    for goal in ledger.study.goals:
        if _of_the_model(goal.metric) and goal.metric not in exported.measured:
            raise ArtifactError(f"{exported.path}: evaluating it gave no {goal.metric}.")
    worst = [
        f"{name}: {value:.8g} recorded, {exported.measured[name]:.8g} now"
        for name, value in exported.recorded.items()
        if _difference(value, exported.measured[name]) > ROUNDING
    ]
    if worst:
        raise ArtifactError(
            f"{exported.path}: the exported model does not reproduce its metrics: "
            + "; ".join(worst)
            + ". Have the data or the tokenizer changed since?"
        )


def _of_the_model(metric: str) -> bool:
    """Whether the metric is a property of a model and held-out data, and so to be had again."""
    return metric.startswith(("val/", "quality/"))


def _difference(recorded: float, measured: float) -> float:
    if recorded == measured:
        return 0.0
    return abs(recorded - measured) / max(abs(recorded), abs(measured))
