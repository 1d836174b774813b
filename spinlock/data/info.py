"""What is known of a dataset without reading its fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ParameterKind = Literal["conditioning", "unit", "physical", "none"]


@dataclass(frozen=True)
class DatasetInfo:
    """Facts that the file itself states; nothing here is guessed from shapes or names."""

    path: Path
    layout: str
    """The adapter that reads it: "spinlock", "the_well", "prototype" or "pdebench"."""
    domain: str
    """The family of ground truth in the file's own words; empty when it does not say."""
    operators: int
    realizations: int
    frames: int
    """Stored states of a trajectory, the initial one included; 0 when none are stored."""
    channels: int
    height: int
    width: int
    channel_names: tuple[str, ...]
    """As the file names them; "0", "1", ... where it does not."""
    parameter_names: tuple[str, ...]
    parameter_kind: ParameterKind
    """What `parameters` gives: our conditioning vector, unit-cube coordinates of a sampler, or
    physical values in the units of the file."""
    features: tuple[str, ...]
    """Families of features stored in the file."""
    static_names: tuple[str, ...]
    """Fields without a time axis (a medium, say): in the file, but no channel here."""
    fingerprint: str

    @property
    def items(self) -> int:
        """Number of trajectories: one for each realization of each operator."""
        return self.operators * self.realizations
