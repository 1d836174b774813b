"""Why the gradients of a NOA's training are not finite, or that they are.

The five parts of seeds/nan-gradient-diagnosis.md: the configuration, the forward pass, parameters
without a finite gradient, norms, and what to do; and the norm for every window.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spinlock.evaluation.gradient_judge import judge
from spinlock.evaluation.gradient_measurement import Measurement, measure
from spinlock.evaluation.gradient_window import advice
from spinlock.evaluation.probe import Probe
from spinlock.evaluation.subject import Subject
from spinlock.evaluation.verdict import Finding, Status, verdict


@dataclass(frozen=True)
class GradientReport:
    """Everything found, with `fix`: the window that cures it; None where none has to."""

    subject: str
    source: str
    samples: int
    timesteps: int
    window: int
    truncated: bool
    clip_norm: float
    notes: tuple[str, ...]
    measured: Measurement
    findings: tuple[Finding, ...]
    fix: int | None

    @property
    def verdict(self) -> Status:
        return verdict(self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON holds it: numbers that are not finite are the words "inf" and "nan"."""
        measured, windows = self.measured, self.measured.windows
        found: dict[str, Any] = {
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "subject": self.subject,
            "source": self.source,
            "samples": self.samples,
            "notes": self.notes,
            "configuration": {
                "timesteps": self.timesteps,
                "bptt_window": self.window,
                "truncated": self.truncated,
                "advice": asdict(advice(self.timesteps)),
                "clip_norm": self.clip_norm,
            },
            "forward": {
                "losses": measured.losses,
                "tensors": [asdict(each) for each in measured.tensors],
                "modules": [asdict(each) for each in measured.modules],
                "largest_value_by_frame": measured.reach,
            },
            "gradients": {
                "norm": measured.norm,
                "percentiles": {str(p): value for p, value in measured.percentiles.items()},
                "nonfinite": [each.name for each in measured.nonfinite],
                "parameters": [asdict(each) for each in measured.gradients],
            },
            "windows": {
                "norm_by_window": {str(w): n for w, n in enumerate(windows.parameters, 1)},
                "state_norm_by_window": {str(w): n for w, n in enumerate(windows.state, 1)},
                "growth_per_step": windows.growth,
                "first_skipped": windows.first_unusable,
            },
            "fix": self.fix,
        }
        return {key: _in_json(value) for key, value in found.items()}


def diagnose(subject: Subject, probe: Probe) -> GradientReport:
    """Measure, and say what is wrong."""
    measured = measure(probe)
    clip_norm = float(subject.training.get("optimizer", {}).get("clip_norm", 1.0))
    findings, fix = judge(probe.timesteps, probe.window, measured)
    return GradientReport(
        subject=f"{subject.kind} {subject.path}",
        source=probe.source,
        samples=len(probe.initial),
        timesteps=probe.timesteps,
        window=probe.window,
        truncated=probe.window < probe.timesteps,
        clip_norm=clip_norm,
        notes=probe.notes,
        measured=measured,
        findings=(*_history(subject), *findings),
        fix=fix,
    )


def _history(subject: Subject) -> list[Finding]:
    """What a checkpoint itself recorded of skipped updates."""
    epochs = [row for row in subject.history if row["metrics"].get("skipped_updates")]
    if not epochs:
        return []
    skipped = sum(int(row["metrics"]["skipped_updates"]) for row in epochs)
    counts: dict[str, int] = {}
    for row in epochs:
        for name, count in row["nonfinite"].items():
            counts[name] = counts.get(name, 0) + count
    worst = sorted(counts, key=lambda name: -counts[name])[:3]
    return [
        Finding(
            Status.WARN,
            f"{skipped} updates were skipped in training, in epochs "
            f"{', '.join(str(row['epoch']) for row in epochs)}"
            + (f", most often for {', '.join(worst)}." if worst else "."),
        )
    ]


def _in_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(np.float64(value))
    return value
