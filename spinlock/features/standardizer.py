"""Which columns of features are used, and their place and spread: fitted once, then fixed.

    x -> columns kept -> tails squeezed -> (x - mean) / std

The fit is kept in buffers and lives with the tokenizer. Nothing here looks at a batch.

The tails: within [low, high] a value is untouched; a value beyond by e spreads is taken as beyond
by log(1 + e). The slope there is 1 / (1 + e), continuous and never zero: a prediction far off
the data keeps a gradient back towards it, which clipping would take away.

(The prototype clamped to quartiles of the current batch, replaced NaN by 0, normalized by the
batch's own statistics, and never applied its fitted mask and clip when training the NOA.)
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from spinlock.config import Config
from spinlock.errors import DatasetError


class CleaningConfig(Config):
    """What is dropped, and where tails begin."""

    constant: float = Field(default=1e-5, gt=0)  # least std, as a share of max(1, |mean|)
    duplicate: float = Field(default=0.99, gt=0, le=1)  # |Pearson r| above this
    tail: float = Field(default=10.0, ge=1)  # interquartile ranges beyond the quartiles


class Dropped(Config):
    """A column that is not used, and why, as a sentence's end."""

    name: str
    reason: str


class StandardizerConfig(Config):
    """What rebuilds a Standardizer around its state: the outcome of its fit, in JSON's terms."""

    inputs: int = Field(gt=0)
    names: tuple[str, ...] = Field(min_length=1)
    dropped: tuple[Dropped, ...] = ()
    samples: int = Field(ge=2)


class Standardizer(nn.Module):
    """Raw features [B, D] to clean, centred ones of spread 1 [B, K].

    Built from its config it is empty: `fit` makes one, or `load_state_dict` fills it.
    """

    kept: Tensor
    low: Tensor
    high: Tensor
    spread: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: StandardizerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("kept", torch.zeros(len(config.names), dtype=torch.long))
        for name in ("low", "high", "spread", "mean", "std"):
            self.register_buffer(name, torch.full((len(config.names),), torch.nan))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are kept, in order."""
        return self.config.names

    @property
    def report(self) -> tuple[Dropped, ...]:
        """The columns that are not, with the reason of each."""
        return self.config.dropped

    @classmethod
    def fit(
        cls, features: Float[Tensor, "N D"], names: Sequence[str], config: CleaningConfig
    ) -> "Standardizer":
        """The standardizer of these samples; the same samples in any order choose the same columns.

        Dropped are columns with a non-finite value, constant ones, and of each pair with
        |r| above `config.duplicate` the later. Raises DatasetError for fewer than two
        samples, or when no column is left.
        """
        samples, inputs = features.shape
        if len(names) != inputs:
            raise ValueError(f"{inputs} columns of features, {len(names)} names")
        if samples < 2:
            raise DatasetError(
                f"Features can be standardized from at least 2 samples; found {samples}."
            )
        values = features.detach().cpu().double().numpy()
        kept, dropped = _select(values, tuple(names), config)
        if not kept:
            raise DatasetError(
                f"None of the {inputs} features varies over the {samples} samples: "
                f"'{dropped[0].name}' {dropped[0].reason}."
            )
        quartiles = np.quantile(values[:, kept], (0.25, 0.75), axis=0)
        # A column that is mostly one value has quartiles that say nothing of its spread.
        std = values[:, kept].std(axis=0)
        spread = np.maximum(quartiles[1] - quartiles[0], std)
        made = cls(
            StandardizerConfig(
                inputs=inputs,
                names=tuple(names[i] for i in kept),
                dropped=tuple(dropped),
                samples=samples,
            )
        )
        made.kept.copy_(torch.tensor(kept))
        made.low.copy_(torch.from_numpy(quartiles[0] - config.tail * spread))
        made.high.copy_(torch.from_numpy(quartiles[1] + config.tail * spread))
        made.spread.copy_(torch.from_numpy(spread))
        squeezed = made._squeeze(torch.from_numpy(values))
        made.mean.copy_(squeezed.mean(0))
        made.std.copy_(squeezed.std(0, correction=0))
        return made

    def forward(self, raw: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        if raw.shape[1] != self.config.inputs:
            raise ValueError(
                f"fitted on {self.config.inputs} columns of features, given {raw.shape[1]}"
            )
        return (self._squeeze(raw) - self.mean) / self.std

    def _squeeze(self, raw: Tensor) -> Tensor:
        x = raw.index_select(1, self.kept)
        inside = torch.minimum(torch.maximum(x, self.low), self.high)
        excess = (x - inside) / self.spread
        return inside + self.spread * excess.sign() * torch.log1p(excess.abs())


def _select(
    values: NDArray[np.float64], names: tuple[str, ...], config: CleaningConfig
) -> tuple[list[int], list[Dropped]]:
    """Indices of the columns to keep, and the others with their reasons, both in order."""
    kept: list[int] = []
    dropped: list[Dropped] = []
    unit = np.zeros_like(values)  # centred columns of length 1: products are correlations
    for i, name in enumerate(names):
        column = values[:, i]
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            reason = f"is not finite in {bad.size} of {len(column)} samples, first in {bad[0]}"
            dropped.append(Dropped(name=name, reason=reason))
            continue
        mean, std = column.mean(), column.std()
        if std <= config.constant * max(1.0, abs(mean)):
            dropped.append(Dropped(name=name, reason=f"is constant at {mean:.6g}"))
            continue
        unit[:, i] = (column - mean) / (std * np.sqrt(len(column)))
        correlation = unit[:, kept].T @ unit[:, i]
        if kept and np.abs(correlation).max() > config.duplicate:
            near = int(np.abs(correlation).argmax())
            reason = f"repeats {names[kept[near]]} (r = {correlation[near]:.4f})"
            dropped.append(Dropped(name=name, reason=reason))
            continue
        kept.append(i)
    return kept, dropped
