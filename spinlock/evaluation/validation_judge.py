"""The thresholds of a validation, in one table, and what they make of a measurement.

The ratio of reconstruction errors is the research prototype's (`max_reconstruction_ratio`), the
grades of distances are Cohen's conventions for small, medium and large effects (Statistical Power
Analysis, 1988, section 2.2): two distributions of one shape whose means are d standard deviations
apart have a distance of d. The other rules ask for what any use of the NOA takes for granted.
"""

from dataclasses import dataclass
from typing import Literal

from spinlock.evaluation.alignment_judge import ENTROPY_RATIO, Grades
from spinlock.evaluation.validation_measurement import ValidationMeasurement
from spinlock.evaluation.verdict import Finding, Status

MAX_RATIO = 2.0


@dataclass(frozen=True)
class Rule:
    """What a measure should be; else `otherwise`. No number at all is not what it should be."""

    measure: str
    better: Literal["<=", "<", ">"]
    limit: float
    otherwise: Status

    def status(self, value: float) -> Status:
        holds = {
            "<=": value <= self.limit,
            "<": value < self.limit,
            ">": value > self.limit,
        }[self.better]
        return Status.PASS if holds else self.otherwise


RATIO = Rule("reconstruction error over the truth's", "<=", MAX_RATIO, Status.FAIL)
PERSISTENCE = Rule("relative L2 over that of standing still", "<", 1.0, Status.FAIL)
NRMSE = Rule("NRMSE", "<", 1.0, Status.WARN)
DIFFERING = Rule("share of features whose distribution differs", "<=", 0.05, Status.WARN)
ENTROPY = Rule(ENTROPY_RATIO.measure, ">", ENTROPY_RATIO.limit, Status.WARN)
AGREEMENT = Rule("tokens like their own truth's less those like others'", ">", 0.0, Status.WARN)
DISTANCE = Grades(
    "Wasserstein distance, the worst family's mean",
    "<",
    (0.2, 0.5, 0.8),
    ("Small", "Medium", "Large", "Very large"),
    "Small",
)


def rules(max_ratio: float = MAX_RATIO) -> tuple[Rule, ...]:
    """All of them, the first with a limit of the user's choice."""
    ratio = Rule(RATIO.measure, RATIO.better, max_ratio, RATIO.otherwise)
    return (ratio, PERSISTENCE, NRMSE, DIFFERING, ENTROPY, AGREEMENT)


def judge_validation(
    measured: ValidationMeasurement | None, *, samples: int, diverged: int, max_ratio: float
) -> tuple[Finding, ...]:
    """Every conclusion as a sentence; `diverged` of `samples` rollouts were not finite."""
    if measured is None:
        return (
            Finding(
                Status.FAIL, f"{diverged} of {samples} rollouts are not finite: too few to go on."
            ),
        )
    return (
        _finite(samples, diverged),
        _reconstructed(measured, rules(max_ratio)[0]),
        *_rolled(measured),
        *_distributed(measured),
        *_tokenized(measured),
    )


def _finite(samples: int, diverged: int) -> Finding:
    if not diverged:
        return Finding(Status.PASS, f"All {samples} rollouts are finite.")
    return Finding(
        Status.FAIL,
        f"{diverged} of {samples} rollouts are not finite, and in no other number here.",
    )


def _reconstructed(measured: ValidationMeasurement, rule: Rule) -> Finding:
    total, status = measured.reconstruction.total, rule.status(measured.ratio)
    said = "reconstructs" if status is Status.PASS else "does not reconstruct"
    return Finding(
        status,
        f"The tokenizer {said} the rollouts' features as it does the truth's: error "
        f"{total.noa:.3g} against {total.truth:.3g}, ratio {measured.ratio:.4g} (at most "
        f"{rule.limit:g}).",
    )


def _rolled(measured: ValidationMeasurement) -> list[Finding]:
    found = measured.trajectories
    relative = found.relative_l2
    closer = PERSISTENCE.status(relative.ratio)
    said = "closer to" if closer is Status.PASS else "no closer to"
    return [
        Finding(
            closer,
            f"Rollouts are {said} the truth than standing still: relative L2 {relative.noa:.3g} "
            f"against {relative.persistence:.3g}.",
        ),
        Finding(
            NRMSE.status(found.nrmse.noa),
            f"Their error is {found.nrmse.noa:.3g} standard deviations of the truth (NRMSE); 1 is "
            "who knows its mean alone.",
        ),
    ]


def _distributed(measured: ValidationMeasurement) -> list[Finding]:
    worst, summary = max(measured.families.items(), key=lambda each: each[1].wasserstein)
    differing = sum(each.differs for each in measured.features)
    count = len(measured.features)
    return [
        Finding(
            DISTANCE.status(summary.wasserstein),
            f"Features are distributed at a {DISTANCE.word(summary.wasserstein).lower()} distance "
            f"from the truth's: {summary.wasserstein:.3g} standard deviations in the family "
            f"{worst}, most of all {summary.worst}.",
        ),
        Finding(
            DIFFERING.status(differing / count),
            f"{differing} of {count} features differ in distribution from the truth's.",
        ),
    ]


def _tokenized(measured: ValidationMeasurement) -> list[Finding]:
    tokens = measured.tokens
    entropy = tokens.entropy
    share = entropy.noa / entropy.truth if entropy.truth > 0 else 1.0
    return [
        Finding(
            ENTROPY.status(share),
            f"Rollouts' tokens have {entropy.noa:.3g} bits each, the truth's {entropy.truth:.3g}.",
        ),
        Finding(
            AGREEMENT.status(tokens.agreement - tokens.agreement_other),
            f"Rollouts have {tokens.agreement:.0%} of their tokens in common with their own truth, "
            f"{tokens.agreement_other:.0%} with other truths.",
        ),
    ]
