"""What a diagnosis concludes: sentences with a status each; the worst is the verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """PASS: as it should be. WARN: look at it. FAIL: it does not work."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One thing found, as a sentence without its status."""

    status: Status
    sentence: str


def verdict(findings: Iterable[Finding]) -> Status:
    """The worst status found; PASS where nothing was found."""
    order = list(Status)
    return max((finding.status for finding in findings), key=order.index, default=Status.PASS)
