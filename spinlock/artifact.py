"""A trained module on disk: its configuration beside its weights, with where it came from.

    <directory>/artifact.json        kind, format version, config, metrics, provenance
    <directory>/weights.safetensors  every parameter and buffer

Nothing in it is executed on loading: JSON and safetensors only.
"""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spinlock.errors import ArtifactError
from spinlock.files import atomic_directory, fingerprint

FORMAT = 1
COMMIT = "SPINLOCK_COMMIT"  # a variable of the environment
FILES = _DESCRIPTION, _WEIGHTS = "artifact.json", "weights.safetensors"


@dataclass(frozen=True)
class Artifact:
    """What `load` gives: everything needed to rebuild the module, and what is known of it."""

    path: Path
    kind: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    metrics: dict[str, Any]
    provenance: dict[str, Any]


def save(
    path: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write an artifact directory in one step; one that stands at `path` is replaced.

    A metric that is not finite becomes null: JSON has no NaN, and a run whose last epoch was not
    finite still has weights worth keeping. In config and provenance it is a ValueError.
    Raises ArtifactError when anything but an artifact stands at `path`, which then stays, and
    when the disk refuses.
    """
    _refuse_to_replace_others(path)
    description = {
        "kind": kind,
        "format": FORMAT,
        "config": dict(config),
        "metrics": _finite_or_null(metrics),
        "provenance": dict(provenance),
    }
    text = json.dumps(description, indent=2, allow_nan=False)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    try:
        with atomic_directory(path) as beside:
            (beside / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")
            save_file(tensors, beside / _WEIGHTS)
    except SafetensorError as error:
        raise ArtifactError(
            f"{path}: cannot be written: {error}. Put this right, or choose another place."
        ) from None


def kind_of(path: Path) -> str:
    """What the artifact in directory `path` is. Raises ArtifactError when there is none."""
    return str(_described(path, "model")["kind"])


def load(path: Path, kind: str) -> Artifact:
    """The artifact of `kind` in directory `path`.

    Raises ArtifactError when it is absent, of another kind or format, or damaged.
    """
    content = _described(path, kind)
    if content["kind"] != kind:
        raise ArtifactError(f"{path}: expected a {kind}, found a {content['kind']}.")
    if content["format"] != FORMAT:
        raise ArtifactError(
            f"{path}: written in artifact format {content['format']}; this version reads {FORMAT}."
        )
    fields = {k: content[k] for k in ("config", "metrics", "provenance")}
    try:
        weights = load_file(path / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path / _WEIGHTS}: missing or damaged: {error}.") from None
    return Artifact(path=path, kind=kind, weights=weights, **fields)


def _described(path: Path, expected: str) -> dict[str, Any]:
    description = path / _DESCRIPTION
    if not path.exists():
        raise ArtifactError(
            f"{path}: not a Spinlock artifact: there is no such directory. "
            f"Expected that of a trained {expected}."
        )
    if not description.is_file():
        raise ArtifactError(
            f"{path}: not a Spinlock artifact: there is no {_DESCRIPTION} in it. "
            f"Expected the directory of a trained {expected}."
        )
    try:
        content: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
        for key in ("kind", "format", "config", "metrics", "provenance"):
            content[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{description}: damaged: {error}.") from None
    return content


def weights_fingerprint(path: Path) -> str:
    """What the weights of the artifact at `path` are, whenever and wherever it was written."""
    return fingerprint(path / _WEIGHTS)


def provenance(**facts: Any) -> dict[str, Any]:
    """When, with which versions and from which commit something was made, and `facts`."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "spinlock": version("spinlock"),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "commit": commit(),
        **facts,
    }


def commit() -> str | None:
    """The commit of the code that runs; None without checkout or git.

    Code that was sent to a cluster has no checkout there, and brings it in its environment.
    """
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return os.environ.get(COMMIT)
    try:
        done = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine's PATH
        return None
    return done.stdout.strip() or None


def _refuse_to_replace_others(path: Path) -> None:
    """A mistyped path must not cost someone's files."""
    if path.is_dir():
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in FILES)
        if others:
            raise ArtifactError(
                f"{path}: this directory holds {others[0]}, which is no part of an artifact, and "
                "is not replaced. Choose another."
            )
    elif path.exists() or path.is_symlink():
        raise ArtifactError(
            f"{path}: a file stands here and is not replaced. Choose a directory for the artifact."
        )


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
