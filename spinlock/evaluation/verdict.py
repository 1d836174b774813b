"""What a diagnosis concludes: sentences with a status each; the worst is the verdict."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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


def in_json(value: Any) -> Any:
    """A report's numbers as JSON holds them: one that is not finite is null."""
    if isinstance(value, dict):
        return {key: in_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [in_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
