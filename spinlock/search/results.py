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
from spinlock.search.events import Scalar
from spinlock.search.ledger import Ledger, read_ledger
from spinlock.search.report import ranked
from spinlock.search.trainable import Trainable

# Two evaluations of one model differ by the order of floating-point sums: other batch sizes,
# thread counts or devices.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Best:
    """The winning epoch of a trial."""

    trial: int
    epoch: int
    value: float
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
    """The best epoch of the search, or of one `trial`. Raises SearchError if there is none."""
    ledger = read_ledger(experiment)
    if trial is not None and trial not in ledger.trials:
        raise SearchError(f"{experiment}: there is no trial {trial} among {len(ledger.trials)}.")
    candidates = [ledger.trials[trial]] if trial is not None else ranked(ledger)
    for candidate in candidates:
        at = candidate.best(ledger.study.objective)
        if at is not None:
            return Best(
                trial=candidate.number,
                epoch=at[0],
                value=at[1],
                parameters=candidate.parameters,
                metrics=candidate.history[at[0] - 1],
                checkpoint=checkpoint_directory(
                    trial_directory(experiment, candidate.number), at[0]
                ),
            )
    raise SearchError(f"{experiment}: no healthy trial has finished an epoch yet.")


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
    recorded = {n: v for n, v in found.metrics.items() if n.startswith("val/") and n in measured}
    exported = Exported(out, found, recorded, measured)
    _require_equal(exported, ledger)
    return exported


def _require_equal(exported: Exported, ledger: Ledger) -> None:
    metric = ledger.study.objective.metric
    if metric.startswith("val/") and metric not in exported.measured:
        raise ArtifactError(f"{exported.path}: evaluating it gave no {metric}.")
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


def _difference(recorded: float, measured: float) -> float:
    if recorded == measured:
        return 0.0
    return abs(recorded - measured) / max(abs(recorded), abs(measured))
