"""Rollouts of a NOA as a dataset of our layout: in place of the ground truth that it imitates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from spinlock import artifact
from spinlock.data import DatasetInfo, TrajectoryDataset, open_dataset, schema
from spinlock.data.operators import read_operators
from spinlock.data.plan import Plan
from spinlock.data.writer import DatasetWriter
from spinlock.errors import DatasetError, GroundTruthError
from spinlock.evaluation.subject import Subject, load_subject
from spinlock.files import fingerprint
from spinlock.noa import rollout
from spinlock.training import checkpoint

AT_ONCE = 8


def write_rollouts(
    noa: Path,
    dataset: Path,
    output: Path,
    *,
    samples: int | None = None,
    timesteps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetInfo:
    """Roll the NOA out from the initial fields of the first `samples` operators (None: all).

    One rollout for each operator, as many steps as the file's trajectories have: a NOA has no
    noise, so realizations would be alike. Of what is known of the operators all is kept. Killed,
    the same call goes on, as `spinlock.data.generate` does. Raises SpinlockError where NOA and
    file do not fit, or a rollout is not finite.
    """
    data = open_dataset(dataset)
    info = data.info
    subject = load_subject(noa, data)
    subject.refuse(data)
    count = info.operators if samples is None else samples
    if count > info.operators:
        raise DatasetError(f"{dataset}: {count} operators are asked for; it has {info.operators}.")
    steps = info.frames - 1 if timesteps is None else timesteps
    plan = _plan(subject, info, count, steps)
    with DatasetWriter(output, plan) as writer:
        while writer.completed < count:
            chosen = range(writer.completed, min(writer.completed + AT_ONCE, count))
            frames = _frames(subject, data, chosen, steps)
            writer.append({schema.INPUTS: frames[:, 0], schema.OUTPUTS: frames[:, None]})
            if progress is not None:
                progress(writer.completed, count)
        writer.finish()
    return open_dataset(output).info


def _plan(subject: Subject, info: DatasetInfo, count: int, steps: int) -> Plan:
    known = read_operators(info.path, count)
    of_artifact = subject.kind == "artifact"
    return Plan(
        config={
            "noa": artifact.weights_fingerprint(subject.path)
            if of_artifact
            else fingerprint(checkpoint.place(subject.path)),
            "dataset": info.fingerprint,
            "operators": count,
            "frames": steps + 1,
        },
        provenance=artifact.provenance(noa=str(subject.path), dataset=str(info.path)),
        domain=f"{info.domain}, rolled out by a NOA",
        channel_names=info.channel_names,
        parameter_names=known.parameter_names,
        unit=known.unit,
        physical=known.physical,
        conditioning_names=info.parameter_names,
        conditioning=known.conditioning,
        seeds=known.seeds,
        realizations=1,
        frames=steps + 1,
        grid=info.height,
        dtype=np.dtype("<f4"),
        features={},
    )


@torch.no_grad()
def _frames(
    subject: Subject, data: TrajectoryDataset, operators: range, steps: int
) -> Float[ndarray, "N T C H W"]:
    items = [operator * data.info.realizations for operator in operators]
    found = rollout(
        subject.model, data.initial(items), data.parameters(items), timesteps=steps, window=steps
    ).frames
    bad = (~found.isfinite().flatten(2).all(2)).nonzero()
    if len(bad):
        row, frame = bad[0].tolist()
        raise GroundTruthError(
            f"operator {operators[row]}: the NOA's rollout is not finite from step {frame} on. "
            "Give fewer --timesteps, or a NOA whose rollouts are sound (see diagnose-alignment)."
        )
    return found.numpy()
