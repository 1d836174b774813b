"""Features for a tokenizer to learn from: computed of trajectories, or read as a file has them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from spinlock.data import TrajectoryDataset
from spinlock.errors import TrainingError
from spinlock.features import FeatureConfig, extract, feature_names
from spinlock.files import atomic_file, own_directory

AT_ONCE = 32


@dataclass(frozen=True)
class RawFeatures:
    """A row of unstandardized features for each window of each item, and the columns' names.

    Rows are item-major: all windows of the first item, then those of the second.

    Stored features may be undefined: a column with any value that is not finite, be it of an item
    that was not asked for, is NaN throughout, so that the standardizer drops it and says so.
    """

    names: tuple[str, ...]
    values: Float[Tensor, "N D"]


def raw_features(
    dataset: TrajectoryDataset,
    items: Sequence[int],
    config: FeatureConfig,
    frames: int | None,
    *,
    windows: int = 1,
    cache: Path | None = None,
) -> RawFeatures:
    """Features of `items` over `frames` frames of each (None: all that the file holds).

    Of several `windows` the first starts at frame 0, the last ends with the trajectory, and the
    others are spread evenly between. With a `cache` directory, features that were computed before
    are read from it. Raises TrainingError when the file cannot give them.
    """
    if config.source == "stored":
        return _stored(dataset, items, config)
    frames = dataset.info.frames if frames is None else frames
    _enough(dataset, frames)
    names, starts = feature_names(config), _starts(dataset, frames, windows)
    if _already_stored(dataset, config, frames):
        return _stored(dataset, items, config)
    if cache is None:
        return RawFeatures(names, _computed(dataset, items, config, frames, starts))
    path = cache / f"features-{_digest(dataset, items, names, frames, starts)}.safetensors"
    if not path.exists():
        own_directory(cache, "computed features")
        values = _computed(dataset, items, config, frames, starts)
        with atomic_file(path) as partial:
            partial.write_bytes(save({"features": values}))
    return RawFeatures(names, load_file(path)["features"])


def _enough(dataset: TrajectoryDataset, frames: int) -> None:
    info = dataset.info
    if info.frames == 0:
        held = ", ".join(info.features)
        raise TrainingError(
            f"{info.path}: it has no trajectories to compute features of. "
            + (
                f"Set features.source to stored and features.families to some of: {held}."
                if held
                else "Give a file that has them."
            )
        )
    if info.frames < frames:
        raise TrainingError(
            f"{info.path}: frames {frames} were asked for; the file holds {info.frames}. "
            "Lower frames."
        )


def _starts(dataset: TrajectoryDataset, frames: int, windows: int) -> list[int]:
    """First frames of the windows, ascending."""
    room = dataset.info.frames - frames
    if windows > room + 1:
        raise TrainingError(
            f"{dataset.info.path}: windows {windows}: trajectories of {dataset.info.frames} frames "
            f"have {room + 1} different windows of {frames}. Lower windows or frames."
        )
    return [round(start) for start in np.linspace(0, room if windows > 1 else 0, windows)]


def _already_stored(dataset: TrajectoryDataset, config: FeatureConfig, frames: int) -> bool:
    """Whether the file holds what would be computed: our names, of as many frames."""
    info = dataset.info
    return (
        info.layout == "spinlock"
        and info.frames == frames
        and all(family in info.features for family in config.families)
        and feature_names(config)
        == tuple(name for family in config.families for name in dataset.feature_names(family))
    )


def _stored(dataset: TrajectoryDataset, items: Sequence[int], config: FeatureConfig) -> RawFeatures:
    tables = [dataset.feature_rows(family) for family in config.families]
    values = np.concatenate([rows for _, rows in tables], axis=1).astype(np.float32)
    values[:, ~np.isfinite(values).all(0)] = np.nan
    names = tuple(name for columns, _ in tables for name in columns)
    return RawFeatures(names, torch.from_numpy(values[list(items)]))


@torch.no_grad()
def _computed(
    dataset: TrajectoryDataset,
    items: Sequence[int],
    config: FeatureConfig,
    frames: int,
    starts: Sequence[int],
) -> Float[Tensor, "N D"]:
    """A few trajectories in memory at a time."""
    parts = []
    for first in range(0, len(items), AT_ONCE):
        whole = dataset.trajectories(items[first : first + AT_ONCE], slice(starts[-1] + frames))
        rows = [extract(whole[:, start : start + frames], config) for start in starts]
        parts.append(torch.stack(rows, dim=1).flatten(0, 1))
    return torch.cat(parts)


def _digest(
    dataset: TrajectoryDataset,
    items: Sequence[int],
    names: Sequence[str],
    frames: int,
    starts: Sequence[int],
) -> str:
    content = [dataset.info.fingerprint, list(items), list(names), frames, list(starts)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
