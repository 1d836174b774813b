"""A new run that starts from the weights of another: an artifact, or a run's checkpoint.

The weights and the statistics that standardize fields and parameters are taken over together:
before its first update the network is the one that was loaded, in the fields' own units, so its
first validation says what it can do on the other data. Optimizer, schedule and epochs begin anew.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spinlock import artifact
from spinlock.config import dotted, parse
from spinlock.errors import ArtifactError
from spinlock.files import fingerprint
from spinlock.noa import NeuralOperatorAgent, UAFNOConfig
from spinlock.training import checkpoint
from spinlock.training.noa_task import NOATask


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from, and what is known of them; `grid` and names only of an artifact."""

    path: Path
    model: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: str | None
    """Fingerprint of the tokenizer that the projector belongs to."""
    grid: tuple[int, int] | None
    names: dict[str, list[str]]
    origin: dict[str, Any]
    """Whence the weights came: for the provenance of what is made from them."""


def read(path: Path) -> Pretrained:
    """The NOA at `path`. Raises ArtifactError if there is none."""
    if (path / artifact.FILES[0]).is_file():
        return _of_artifact(path)
    saved = checkpoint.read(path)
    training = saved["config"]
    if training.get("task") != "noa":
        raise ArtifactError(f"{path}: a checkpoint of task {training.get('task')!r}, not of a NOA.")
    file, run = checkpoint.place(path), saved["run"]
    return Pretrained(
        path=path,
        model=parse(UAFNOConfig, training["model"], where=str(path)).model_dump(mode="json"),
        weights=saved["model"],
        tokenizer=saved["facts"].get("tokenizer"),
        grid=None,
        names={},
        origin={"path": str(file), "file": fingerprint(file), "updates": run["global_step"]},
    )


def start_from(task: NOATask, source: Pretrained) -> list[str]:
    """Give the task's modules these weights; what a person should know about it, as sentences.

    Raises ArtifactError naming every part of the architecture that differs, with both values.
    """
    now = task.modules.state_dict()
    _same_architecture(task, source, now)
    taken = {name: value for name, value in source.weights.items() if name.startswith("uafno.")}
    said = [
        f"{kind} here: {', '.join(here) or 'none'}; it was trained on {', '.join(there) or 'none'}"
        for kind, here in (
            ("Channels", [*task.info.channel_names]),
            ("Parameters", [*task.info.parameter_names]),
        )
        if (there := source.names.get(kind, here)) != here
    ]
    if "projector" in task.modules:
        projector = {k: v for k, v in source.weights.items() if k.startswith("projector.")}
        if source.tokenizer == task.facts["tokenizer"] and projector:
            taken |= projector
        else:
            why = "is of another tokenizer" if projector else "is not there"
            said.append(f"The latent projector starts at random: that of {source.path} {why}")
    task.modules.load_state_dict({**now, **taken})
    return said


def _of_artifact(path: Path) -> Pretrained:
    agent = NeuralOperatorAgent.load(path)
    return Pretrained(
        path=path,
        model=agent.model.config.model_dump(mode="json"),
        weights=artifact.load(path, "noa").weights,
        tokenizer=agent.provenance.get("facts", {}).get("tokenizer"),
        grid=agent.grid,
        names={"Channels": [*agent.channels], "Parameters": [*agent.parameters]},
        origin={
            "path": str(path),
            "weights": artifact.weights_fingerprint(path),
            "epoch": agent.metrics.get("epoch"),
        },
    )


def _same_architecture(task: NOATask, source: Pretrained, now: dict[str, Tensor]) -> None:
    here = dotted({"model": task.config.model.model_dump(mode="json")})
    there = dotted({"model": source.model})
    try:
        counts = {
            "channels": (len(source.weights["uafno.mean"]), task.info.channels),
            "operator parameters": (
                len(source.weights["uafno.parameter_mean"]),
                len(now["uafno.parameter_mean"]),
            ),
        }
    except KeyError as error:
        raise ArtifactError(f"{source.path}: damaged: it has no weights {error}.") from None
    differing = [
        f"{key}: {there.get(key)} there, {here[key]} here"
        for key in here
        if there.get(key) != here[key]
    ]
    differing += [f"{name}: {a} there, {b} here" for name, (a, b) in counts.items() if a != b]
    if not differing:
        differing = _other_tensors(task, source, now)
    if differing:
        raise ArtifactError(
            f"{source.path}: it has another architecture than this run:\n  "
            + "\n  ".join(differing)
            + "\nTrain the same one, or start without --init-from."
        )


def _other_tensors(task: NOATask, source: Pretrained, now: dict[str, Tensor]) -> list[str]:
    """Sizes alike, it is a grid with fewer Fourier modes that is left to differ."""
    names = [name for name in {**now, **source.weights} if name.startswith("uafno.")]
    shapes = {name: (_shape(source.weights, name), _shape(now, name)) for name in names}
    differing = [f"{name}: {a} there, {b} here" for name, (a, b) in shapes.items() if a != b]
    if differing and source.grid is not None:
        here = (task.info.height, task.info.width)
        differing = [f"grid: {source.grid} there, {here} here", *differing]
    return differing


def _shape(weights: dict[str, Tensor], name: str) -> list[int] | None:
    return list(weights[name].shape) if name in weights else None
