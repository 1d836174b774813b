"""How well a trained NOA is aligned with a tokenizer: rolled out on held-out data, and judged.

The four sections of the NOA training guide: reconstruction, token diversity, correlation, temporal
consistency. Letters: N samples, F frames, C H W field, P parameters, S states, V latents' entries.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spinlock.data import open_dataset
from spinlock.evaluation.alignment_judge import (
    GRADES,
    LIMITS,
    Section,
    judge_alignment,
    overall,
    sections,
)
from spinlock.evaluation.alignment_measurement import AlignmentMeasurement, measure_alignment
from spinlock.evaluation.alignment_rollouts import held_out, projector_into, roll, steps_of
from spinlock.evaluation.subject import load_subject
from spinlock.evaluation.verdict import Finding, Status, in_json, verdict
from spinlock.training.tokenizers import own_tokenizer


@dataclass(frozen=True)
class AlignmentReport:
    """What was measured, on what, and what it says; `measured` is None where nothing could be.

    `error` and `persistence` are mean squared errors of the frames after the first, over finite
    rollouts: the NOA's, and that of standing still.
    """

    noa: str
    tokenizer: str
    dataset: str
    samples: int
    timesteps: int
    diverged: int
    error: float
    persistence: float
    notes: tuple[str, ...]
    measured: AlignmentMeasurement | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Status:
        return verdict(self.findings)

    @property
    def sections(self) -> tuple[Section, ...]:
        return () if self.measured is None else sections(self.measured)

    @property
    def grade(self) -> str:
        """The guide's one word for all sections."""
        return "POOR" if self.measured is None else overall(self.sections)

    def document(self) -> dict[str, Any]:
        """As JSON holds it; a number that is not finite is null."""
        found = {
            "verdict": self.verdict,
            "grade": self.grade,
            "findings": [asdict(finding) for finding in self.findings],
            "noa": self.noa,
            "tokenizer": self.tokenizer,
            "dataset": self.dataset,
            "samples": self.samples,
            "timesteps": self.timesteps,
            "diverged": self.diverged,
            "rollout_error": self.error,
            "persistence_error": self.persistence,
            "notes": self.notes,
            "sections": [
                {"measure": each.grades.measure, "value": each.value, "grade": each.word}
                for each in self.sections
            ],
            "measured": None if self.measured is None else _measured(self.measured),
            "thresholds": [asdict(each) for each in (*GRADES, *LIMITS)],
        }
        return {key: in_json(value) for key, value in found.items()}


def diagnose_alignment(
    noa: Path,
    vqvae: Path,
    dataset: Path,
    *,
    samples: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> AlignmentReport:
    """Roll the NOA out on held-out operators, and compare with their truth by the tokenizer.

    Held out are those of its own training; of another file, all. `progress` is told how many
    rollouts of how many are done. Raises SpinlockError where the three do not fit together.
    """
    data, tokenizer = open_dataset(dataset), own_tokenizer(vqvae)
    subject = load_subject(noa, data)
    subject.refuse(data)
    steps = steps_of(tokenizer, data, vqvae)
    projector, notes = projector_into(subject, tokenizer, vqvae)
    items, told = held_out(subject, data, samples)
    notes.append(told)
    trained = subject.training.get("rollout", {}).get("timesteps", steps)
    if trained != steps:
        notes.append(f"It was trained on rollouts of {trained} steps; the tokenizer reads {steps}.")
    window = min(subject.training.get("rollout", {}).get("bptt_window") or steps, steps)
    rolled = roll(subject, data, items, steps, window, projector, progress)
    finite = rolled.frames.isfinite().flatten(1).all(1)
    diverged = int((~finite).sum())
    measured = None
    findings: tuple[Finding, ...] = (
        Finding(
            Status.FAIL, f"{diverged} of {len(items)} rollouts are not finite: too few to go on."
        ),
    )
    if int(finite.sum()) >= 2:
        measured = measure_alignment(
            tokenizer,
            rolled.frames[finite],
            rolled.truth[finite],
            None if rolled.projected is None else rolled.projected[finite],
            None if rolled.projected_truth is None else rolled.projected_truth[finite],
        )
        findings = judge_alignment(measured, samples=len(items), diverged=diverged)
    truth = rolled.truth[finite]
    return AlignmentReport(
        noa=str(noa),
        tokenizer=str(vqvae),
        dataset=str(dataset),
        samples=len(items),
        timesteps=steps,
        diverged=diverged,
        error=float((rolled.frames[finite] - truth)[:, 1:].square().mean()),
        persistence=float((truth[:, :1] - truth[:, 1:]).square().mean()),
        notes=tuple(notes),
        measured=measured,
        findings=findings,
    )


def _measured(found: AlignmentMeasurement) -> dict[str, Any]:
    """With what follows from the numbers beside them."""
    projection = found.projection
    return {
        "reconstruction": asdict(found.reconstruction),
        "tokens": found.tokens.document(),
        "projection": None
        if projection is None
        else {**asdict(projection), "mean": projection.mean, "std": projection.std},
        "resemblance": {
            **asdict(found.resemblance),
            "mean": found.resemblance.own.mean,
            "std": found.resemblance.own.std,
            "margin": found.resemblance.margin,
        },
        "consistency": None if found.consistency is None else asdict(found.consistency),
    }
