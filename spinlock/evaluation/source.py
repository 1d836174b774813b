"""A dataset's features as a tokenizer sees them: the same ones that it was trained on.

A sample is a window of one item's trajectory. N samples, D standardized features.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.data import TrajectoryDataset
from spinlock.errors import DatasetError
from spinlock.training.features import AT_ONCE, raw_features
from spinlock.vqvae import Tokenizer


def standardized_features(
    tokenizer: Tokenizer,
    dataset: TrajectoryDataset,
    items: Sequence[int],
    *,
    windows: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "N D"]:
    """Features of `items`, cleaned and scaled as in training: all windows of the first, and so on.

    A single window begins with the trajectory; see `spinlock.training.features` for more.
    `progress` is told how many items of how many are done.

    Raises SpinlockError when the file cannot give these features, or a value of one is undefined.
    """
    info = dataset.info
    if tokenizer.frames is None and windows > 1:
        raise DatasetError(
            f"{info.path}: the tokenizer reads features as they are stored, one row for each "
            "trajectory. Leave --windows out."
        )
    if tokenizer.frames is not None:
        if info.frames < tokenizer.frames:
            held = f"trajectories of {info.frames} frames" if info.frames else "no trajectories"
            raise DatasetError(
                f"{info.path}: it holds {held}; the tokenizer reads {tokenizer.frames} frames. "
                "Give a file of longer ones, or a tokenizer that was trained on such a file."
            )
        tokenizer.expect(
            frames=tokenizer.frames,  # the rest of a longer trajectory is not read
            channels=info.channels,
            grid=(info.height, info.width),
        )
    config = tokenizer.feature_config
    # What a file stores is read at once; what must be computed can be waited for.
    step = len(items) if {*config.families} <= {*info.features} else AT_ONCE
    rows: list[Tensor] = []
    for first in range(0, len(items), step):
        part = items[first : first + step]
        raw = raw_features(dataset, part, config, tokenizer.frames, windows=windows)
        _same_columns(tokenizer, raw.names, str(info.path))
        rows.append(tokenizer.standardizer(raw.values))
        if progress is not None:
            progress(first + len(part), len(items))
    standardized = torch.cat(rows)
    undefined = ~standardized.isfinite().all(0)
    if undefined.any():
        names = [tokenizer.standardizer.names[i] for i in undefined.nonzero()[:, 0].tolist()]
        raise DatasetError(
            f"{info.path}: {len(names)} features that the tokenizer reads are undefined for some "
            f"of its samples: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}. Train a "
            "tokenizer on this file, or give one whose features are all defined."
        )
    return standardized


def _same_columns(tokenizer: Tokenizer, names: Sequence[str], where: str) -> None:
    standardizer = tokenizer.standardizer
    kept = [names[i] for i in standardizer.kept.tolist() if i < len(names)]
    if len(names) != standardizer.config.inputs or tuple(kept) != standardizer.names:
        differing = next((n for n in standardizer.names if n not in names), None)
        missing = f"'{differing}' is not among them" if differing else "in another order"
        raise DatasetError(
            f"{where}: its {len(names)} features are not the {standardizer.config.inputs} that the "
            f"tokenizer was trained on: {missing}. Give a file with the same features."
        )
