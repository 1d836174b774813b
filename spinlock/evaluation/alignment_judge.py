"""The thresholds of an alignment, in one table, and what they make of a measurement.

The grades and their limits are the prototype's, the limits of PASS those that its training guide
names under "Interpretation". Of the comparisons the first two are from its later documents; the
others ask whether a number says anything at all.
"""

from dataclasses import dataclass
from typing import Literal

from spinlock.evaluation.alignment_measurement import AlignmentMeasurement
from spinlock.evaluation.verdict import Finding, Status


@dataclass(frozen=True)
class Grades:
    """Three limits from the best grade down, and from which grade on a measure passes.

    The grade below the passing one is a WARN, what is worse a FAIL. `better` says on which side of
    its limit a grade lies.
    """

    measure: str
    better: Literal["<", ">"]
    limits: tuple[float, float, float]
    words: tuple[str, str, str, str]
    passing: str

    def word(self, value: float) -> str:
        """The grade; a value that is not a number has the worst."""
        for limit, word in zip(self.limits, self.words, strict=False):
            if value < limit if self.better == "<" else value > limit:
                return word
        return self.words[-1]

    def status(self, value: float) -> Status:
        found, passing = self.words.index(self.word(value)), self.words.index(self.passing)
        if found <= passing:
            return Status.PASS
        return Status.WARN if found == passing + 1 else Status.FAIL


@dataclass(frozen=True)
class Limit:
    """What a comparison should be; else it is a WARN."""

    measure: str
    better: Literal["<", ">"]
    limit: float

    def holds(self, value: float) -> bool:
        return value < self.limit if self.better == "<" else value > self.limit


_GOOD = ("Excellent", "Good", "Moderate", "Poor")
_STRONG = ("Strong", "Moderate", "Weak", "Poor")
RECONSTRUCTION = Grades("reconstruction error", "<", (0.1, 0.5, 1.0), _GOOD, "Good")
UTILIZATION = Grades("token utilization", ">", (0.7, 0.5, 0.3), _GOOD, "Good")
COSINE = Grades("cosine of projection and latents", ">", (0.7, 0.5, 0.3), _STRONG, "Moderate")
VARIATION = Grades("variation of the latents' norm", "<", (0.05, 0.1, 0.2), _GOOD, "Good")
GRADES = (RECONSTRUCTION, UTILIZATION, COSINE, VARIATION)

ERROR_RATIO = Limit("reconstruction error over the truth's", "<", 2.0)
ENTROPY_RATIO = Limit("token entropy over the truth's", ">", 0.9)
MARGIN = Limit("own truth over other truths, in standard errors", ">", 2.0)
UNEXPLAINED = Limit("projection's squared error over the latents' variance", "<", 1.0)
LIMITS = (ERROR_RATIO, ENTROPY_RATIO, UNEXPLAINED, MARGIN)

SCORES = {"Excellent": 4, "Good": 3, "Strong": 3, "Moderate": 2, "Weak": 1, "Poor": 0}
OVERALL = ((3.5, "EXCELLENT"), (2.5, "GOOD"), (1.5, "MODERATE"))
"""The guide's word for all sections together: from their mean score."""


@dataclass(frozen=True)
class Section:
    """One section's grade, where it could be measured."""

    grades: Grades
    value: float | None

    @property
    def word(self) -> str | None:
        return None if self.value is None else self.grades.word(self.value)


def sections(measured: AlignmentMeasurement) -> tuple[Section, ...]:
    """The guide's four."""
    values = (
        measured.reconstruction.total.noa,
        measured.tokens.utilization.noa,
        None if measured.projection is None else measured.projection.mean,
        None if measured.consistency is None else measured.consistency.variation.noa,
    )
    return tuple(Section(*each) for each in zip(GRADES, values, strict=True))


def overall(found: tuple[Section, ...]) -> str:
    """The guide's final word, over the sections that were measured."""
    scores = [SCORES[section.word] for section in found if section.word is not None]
    mean = sum(scores) / len(scores)
    return next((word for least, word in OVERALL if mean >= least), "POOR")


def judge_alignment(
    measured: AlignmentMeasurement, *, samples: int, diverged: int
) -> tuple[Finding, ...]:
    """Every conclusion as a sentence; `diverged` of `samples` rollouts were not finite."""
    return (
        _diverged(samples, diverged),
        *_reconstructed(measured),
        *_tokenized(measured),
        *_projected(measured),
        _resembles(measured),
        *_steady(measured),
    )


def _diverged(samples: int, diverged: int) -> Finding:
    if not diverged:
        return Finding(Status.PASS, f"All {samples} rollouts are finite.")
    return Finding(
        Status.FAIL,
        f"{diverged} of {samples} rollouts are not finite, and in no other number here: look at "
        "them with diagnose-gradients.",
    )


def _reconstructed(measured: AlignmentMeasurement) -> list[Finding]:
    total = measured.reconstruction.total
    said = {
        Status.PASS: "The rollouts tokenize well",
        Status.WARN: "The rollouts lie beside what the tokenizer can say",
        Status.FAIL: "The tokenizer cannot say what the rollouts are",
    }
    status = RECONSTRUCTION.status(total.noa)
    found = [
        Finding(
            status,
            f"{said[status]}: reconstruction error {total.noa:.3g}, {total.truth:.3g} for the "
            "truth.",
        )
    ]
    ratio = total.noa / total.truth if total.truth > 0 else float("inf")
    if not ERROR_RATIO.holds(ratio):
        worst = max(
            measured.reconstruction.families.items(), key=lambda each: each[1].noa - each[1].truth
        )[0]
        found.append(
            Finding(
                Status.WARN,
                f"The rollouts' error is {ratio:.3g} times the truth's, most of all in the family "
                f"{worst}.",
            )
        )
    return found


def _tokenized(measured: AlignmentMeasurement) -> list[Finding]:
    tokens = measured.tokens
    use, entropy = tokens.utilization, tokens.entropy
    status = UTILIZATION.status(use.noa)
    found = [
        Finding(
            status,
            f"The rollouts use {use.noa:.0%} of the codes in reach; the truth, {use.truth:.0%}.",
        )
    ]
    if entropy.truth > 0 and not ENTROPY_RATIO.holds(entropy.noa / entropy.truth):
        found.append(
            Finding(
                Status.WARN,
                f"The rollouts are less diverse than the truth: {entropy.noa:.3g} bits a token "
                f"against {entropy.truth:.3g}.",
            )
        )
    return found


def _projected(measured: AlignmentMeasurement) -> list[Finding]:
    if measured.projection is None:
        return []
    found = measured.projection
    said = [
        Finding(
            COSINE.status(found.mean),
            f"The NOA's own projection has a cosine of {found.mean:.3f} with its rollouts' "
            f"latents; their mean, {found.blind:.3f}.",
        )
    ]
    share = found.mse / found.variance if found.variance > 0 else float("inf")
    if not UNEXPLAINED.holds(share):
        said.append(
            Finding(
                Status.WARN,
                "The projection knows nothing of a single rollout: its squared error is "
                f"{found.mse:.3g}, and {found.variance:.3g} for who gives the mean of the latents.",
            )
        )
    return said


def _resembles(measured: AlignmentMeasurement) -> Finding:
    found = measured.resemblance
    others = sum(found.others) / len(found.others)
    numbers = (
        f"cosine {found.own.mean:.3f} with their own truth's, {others:.3f} with others'; "
        f"{found.identified:.0%} are most alike to their own"
    )
    if MARGIN.holds(found.margin):
        return Finding(Status.PASS, f"Rollouts' latents tell which truth they imitate: {numbers}.")
    return Finding(
        Status.WARN, f"Rollouts' latents are as much like other truths as their own: {numbers}."
    )


def _steady(measured: AlignmentMeasurement) -> list[Finding]:
    if measured.consistency is None:
        return []
    found = measured.consistency.variation
    status = VARIATION.status(found.noa)
    said = "steady" if status is Status.PASS else "not steady"
    return [
        Finding(
            status,
            f"Projected latents are {said} along the rollout: their norm varies by "
            f"{found.noa:.1%}, by {found.truth:.1%} on true states.",
        )
    ]
