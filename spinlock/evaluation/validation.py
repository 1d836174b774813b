"""A NOA and a tokenizer that were trained apart, both on ground truth: do they fit together?

The NOA is rolled out on operators that neither has been trained on, and the tokenizer is shown its
rollouts and the truth. This is the last step of the "CNO-trained architecture" of the training
guide of 2026-01-25; its prototype is `MNOVQVAEValidator`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spinlock import artifact
from spinlock.data import DatasetInfo, TrajectoryDataset, open_dataset
from spinlock.evaluation.alignment_rollouts import chosen, held_out, rolled_parts, steps_of, unseen
from spinlock.evaluation.distributions import FALSE_DISCOVERIES, QUANTILES
from spinlock.evaluation.subject import Subject, load_subject
from spinlock.evaluation.validation_judge import DISTANCE, MAX_RATIO, judge_validation, rules
from spinlock.evaluation.validation_measurement import ValidationMeasurement, measure_validation
from spinlock.evaluation.verdict import Finding, Status, in_json, verdict
from spinlock.training.tokenizers import own_tokenizer


@dataclass(frozen=True)
class ValidationReport:
    """What was measured, on what, and what it says; `measured` is None where nothing could be."""

    noa: str
    tokenizer: str
    dataset: str
    samples: int
    timesteps: int
    diverged: int
    max_ratio: float
    notes: tuple[str, ...]
    measured: ValidationMeasurement | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Status:
        return verdict(self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON holds it; a number that is not finite is null."""
        found: dict[str, Any] = {
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "noa": self.noa,
            "tokenizer": self.tokenizer,
            "dataset": self.dataset,
            "samples": self.samples,
            "timesteps": self.timesteps,
            "diverged": self.diverged,
            "notes": self.notes,
            "measured": None if self.measured is None else _measured(self.measured),
            "thresholds": [*map(asdict, rules(self.max_ratio)), asdict(DISTANCE)],
            "false_discoveries": FALSE_DISCOVERIES,
            "quantiles": QUANTILES,
        }
        plain: dict[str, Any] = in_json(found)
        return plain


def validate(
    noa: Path,
    vqvae: Path,
    dataset: Path,
    *,
    samples: int = 100,
    max_ratio: float = MAX_RATIO,
    progress: Callable[[int, int], None] | None = None,
) -> ValidationReport:
    """Roll the NOA out on held-out operators, and compare with their truth by the tokenizer.

    `progress` is told how many rollouts of how many are done. Raises SpinlockError where the three
    do not fit together.
    """
    data, tokenizer = open_dataset(dataset), own_tokenizer(vqvae)
    subject = load_subject(noa, data)
    subject.refuse(data)
    steps = steps_of(tokenizer, data, vqvae)
    items, notes = _unseen_by_both(subject, data, vqvae, samples)
    trained = subject.training.get("rollout", {}).get("timesteps", steps)
    if trained != steps:
        notes.append(
            f"The NOA was trained on rollouts of {trained} steps; the tokenizer reads {steps}."
        )
    parts = rolled_parts(subject, data, items, steps, progress=progress)
    measured, diverged = measure_validation(tokenizer, parts)
    return ValidationReport(
        noa=str(noa),
        tokenizer=str(vqvae),
        dataset=str(dataset),
        samples=len(items),
        timesteps=steps,
        diverged=diverged,
        max_ratio=max_ratio,
        notes=tuple(notes),
        measured=measured,
        findings=judge_validation(
            measured, samples=len(items), diverged=diverged, max_ratio=max_ratio
        ),
    )


def _unseen_by_both(
    subject: Subject, data: TrajectoryDataset, vqvae: Path, samples: int
) -> tuple[list[int], list[str]]:
    """Items that neither was trained on, if there are any; and who they are."""
    info = data.info
    theirs = _unseen_by_tokenizer(info, vqvae)
    ours = unseen(info, subject.training, subject.facts)
    if theirs is None or ours is None:
        if theirs is not None:
            told = "Samples are of operators that were held out of the tokenizer's training."
            return chosen(info, theirs, samples), [told]
        items, told = held_out(subject, data, samples)
        return items, [told]
    both = sorted({*ours} & {*theirs})
    if len(both) >= 2:
        told = "Samples are of operators that were held out of both trainings."
        return chosen(info, both, samples), [told]
    items, told = held_out(subject, data, samples)
    return items, [
        told,
        "The tokenizer was trained on them, so its error on the truth is too small: give both "
        "trainings the same seed and validation_fraction, or validate on another file.",
    ]


def _unseen_by_tokenizer(info: DatasetInfo, vqvae: Path) -> list[int] | None:
    known = artifact.load(vqvae, "vqvae").provenance
    return unseen(info, known.get("training", {}), known.get("facts", {}))


def _measured(found: ValidationMeasurement) -> dict[str, Any]:
    """With what follows from the numbers beside them."""
    return {
        "trajectories": asdict(found.trajectories),
        "reconstruction": {
            **asdict(found.reconstruction),
            "absolute": asdict(found.absolute),
            "ratio": found.ratio,
        },
        "families": {name: asdict(each) for name, each in found.families.items()},
        "features": [asdict(each) for each in found.features],
        "tokens": {**found.tokens.document(), "strings": asdict(found.strings)},
    }
