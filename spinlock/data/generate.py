"""Makes a dataset: draws operators of a domain, rolls them out in batches, stores them."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field, model_validator
from torch import Tensor

from spinlock import artifact
from spinlock.config import Config
from spinlock.data import schema
from spinlock.data.info import DatasetInfo
from spinlock.data.plan import Plan
from spinlock.data.reader import open_dataset
from spinlock.data.writer import DatasetWriter
from spinlock.domains import AnyDomain
from spinlock.domains.base import Domain, operator_seeds
from spinlock.errors import DatasetError, GroundTruthError
from spinlock.features import FAMILIES, FeatureConfig, extract
from spinlock.features.fields import SMALLEST_GRID


class GenerateConfig(Config):
    """What is in a dataset, and in which batches it is made, which does not alter it."""

    domain: AnyDomain
    operators: int = Field(default=64, ge=1)
    """How many operators are drawn; powers of two keep a Sobol sequence balanced."""
    seed: int = Field(default=0, ge=0)
    """Of the parameters, the operators' weights, the initial conditions and the noise."""
    grid: int = Field(default=64, ge=4)
    """Points along each side of the square grid."""
    frames: int = Field(default=65, ge=2)
    """Stored states, the initial condition included: T steps give T + 1 frames."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the trajectories. float16 halves the file; its range, +-65504, is checked."""
    features: bool = False
    """Whether to store the features of every trajectory, as it is stored, too."""
    batch: int = Field(default=8, ge=1)
    """Operators made between two writes; more need more memory."""

    @model_validator(mode="after")
    def _features_exist(self) -> "GenerateConfig":
        needed = max(FAMILIES[family].minimum_frames for family in FeatureConfig().families)
        if self.features and self.frames < needed:
            raise ValueError(f"features need at least {needed} frames, not {self.frames}")
        if self.features and self.grid < SMALLEST_GRID:
            raise ValueError(f"features need a grid of at least {SMALLEST_GRID}, not {self.grid}")
        return self


@dataclass(frozen=True)
class Progress:
    """How far a generation is. Counts include what an earlier, interrupted run has made."""

    done: int
    total: int
    seconds: float
    """Spent by this run."""
    remaining: float | None
    """Estimate of the seconds still needed; None before the first batch."""


def generate(
    config: GenerateConfig,
    path: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> DatasetInfo:
    """Write the dataset `config` describes to `path`, which must not exist.

    The file appears whole or not at all. After a kill at any moment the same call goes on where
    the last batch ended and gives the same content as an undisturbed run; see writer.py.
    Raises DatasetError when the file cannot be written or continued, and GroundTruthError naming
    the operator when a trajectory runs away or does not fit the type it is stored in.
    """
    domain: Domain = config.domain.build()
    _refuse_what_cannot_fit(config, domain, path)
    plan = _plan(config, domain)
    started = time.monotonic()
    with DatasetWriter(path, plan) as writer:
        inherited = writer.completed
        _report(progress, writer.completed, inherited, config.operators, started)
        while writer.completed < config.operators:
            first = writer.completed
            rows = slice(first, min(first + config.batch, config.operators))
            unit, seeds = plan.unit[rows], plan.seeds[rows]
            with torch.no_grad():
                initial = domain.initial(seeds, config.grid)
                fields = domain.rollout(unit, seeds, initial, config.frames, first=first)
            stored = _as_stored(fields.numpy(), plan, first)
            arrays = {schema.INPUTS: initial.numpy(), schema.OUTPUTS: stored}
            if config.features:
                arrays |= _features(stored)
            writer.append(arrays)
            _report(progress, writer.completed, inherited, config.operators, started)
        writer.finish()
    return open_dataset(path).info


def _refuse_what_cannot_fit(config: GenerateConfig, domain: Domain, path: Path) -> None:
    """Before the parameters are drawn, which alone may be more than the memory holds."""
    state = len(domain.channel_names) * config.grid**2
    frames = domain.realizations * config.frames
    each = state * (4 + frames * np.dtype(config.dtype).itemsize) + 8 * len(domain.parameter_names)
    needed = config.operators * each
    place = next((p for p in path.absolute().parents if p.is_dir()), None)
    if place is None:
        return  # the writer says why nothing can be made there
    partial = path.with_name(f"{path.name}.partial")
    free = shutil.disk_usage(place).free + (partial.stat().st_size if partial.is_file() else 0)
    if needed > free:
        raise DatasetError(
            f"{path}: {config.operators} operators of {each / 1e6:.3g} MB take "
            f"{needed / 1e9:.4g} GB, and {free / 1e9:.4g} GB are free in {place}. Ask for fewer "
            "operators or frames, or a smaller grid."
        )


def _plan(config: GenerateConfig, domain: Domain) -> Plan:
    unit = domain.sample(config.operators, config.seed)
    families = FeatureConfig().families if config.features else ()
    return Plan(
        # The batch is how the file was made, not what is in it: another one may finish it.
        config=config.model_dump(mode="json", exclude={"batch"}),
        provenance=artifact.provenance(),
        domain=domain.name,
        channel_names=domain.channel_names,
        parameter_names=domain.parameter_names,
        unit=unit,
        physical=domain.physical(unit),
        conditioning_names=domain.conditioning_names,
        conditioning=domain.conditioning(unit),
        seeds=operator_seeds(config.seed, range(config.operators)),
        realizations=domain.realizations,
        frames=config.frames,
        grid=config.grid,
        dtype=np.dtype(config.dtype).newbyteorder("<"),
        features={family: FAMILIES[family].names for family in families},
    )


def _as_stored(fields: ndarray, plan: Plan, first: int) -> ndarray:
    """`fields` in the type of the file. Raises GroundTruthError for what that cannot hold."""
    with np.errstate(over="ignore"):  # an overflow is reported below, with its operator
        stored = fields.astype(plan.dtype)
    finite = np.isfinite(stored)
    if not finite.all():
        row, realization, frame, channel, *_ = where = tuple(np.argwhere(~finite)[0])
        operator = first + row
        raise GroundTruthError(
            f"operator {operator}, realization {realization}, frame {frame}, channel "
            f"'{plan.channel_names[channel]}': the value {fields[where]:.6g} is beyond the range "
            f"of {plan.dtype.name}, {np.finfo(plan.dtype).max:.6g}. Its parameters are "
            f"{plan.physical[operator]}. Store float32, or narrow the domain's ranges."
        )
    return stored


def _features(stored: ndarray) -> dict[str, ndarray]:
    """Features of the trajectories as a reader will see them, so that it can make them again."""
    operators, realizations = stored.shape[:2]
    config = FeatureConfig()
    rows = []
    for trajectories in stored:  # one operator at a time: features need several times its memory
        with torch.no_grad():
            rows.append(extract(_tensor(trajectories), config))
    values = torch.stack(rows).numpy()
    assert values.shape[:2] == (operators, realizations)
    arrays: dict[str, ndarray] = {}
    column = 0
    for family in config.families:
        end = column + len(FAMILIES[family].names)
        arrays[f"{schema.FEATURES}/{family}"] = values[:, :, column:end]
        column = end
    return arrays


def _tensor(trajectories: ndarray) -> Float[Tensor, "M T C H W"]:
    return torch.from_numpy(trajectories.astype(np.float32))


def _report(
    progress: Callable[[Progress], None] | None,
    done: int,
    inherited: int,
    total: int,
    started: float,
) -> None:
    if progress is None:
        return
    seconds = time.monotonic() - started
    made = done - inherited
    remaining = seconds / made * (total - done) if made else None
    progress(Progress(done=done, total=total, seconds=seconds, remaining=remaining))
