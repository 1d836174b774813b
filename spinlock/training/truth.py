"""The ground truth as the frozen tokenizer sees it: computed once per item, then remembered."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spinlock.data import TrajectoryDataset
from spinlock.training.losses import Truth
from spinlock.vqvae import Tokenizer

_DRAW = 0xA06  # the random stream of drawn tokens
_TO_TRAIN, _TO_JUDGE = 0, 1


class Truths:
    """Latents of the data's trajectories, and token sequences drawn near them.

    An item is tokenized alone, when it is first asked for: its latents have the same bits whatever
    the batch. Its draws are a function of (seed, item, epoch), so a resumed run draws the same.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        tokenizer: Tokenizer,
        *,
        frames: int,
        temperature: float,
        seed: int,
    ) -> None:
        self._dataset, self._tokenizer, self._frames = dataset, tokenizer, frames
        self._temperature, self._seed = temperature, seed
        self._latents: dict[int, Tensor] = {}

    def of(self, items: Sequence[int], device: torch.device, *, epoch: int | None) -> Truth:
        """The truth of `items`, with tokens drawn for `epoch`; None draws those to judge by."""
        latents = torch.stack([self._of(item, device) for item in items]).to(device)
        with torch.no_grad():
            shares = self._tokenizer.soft_codes(latents, self._temperature).exp()
        stream = (_TO_JUDGE, 0) if epoch is None else (_TO_TRAIN, epoch)
        drawn = [
            np.random.default_rng([self._seed, item, *stream, _DRAW]).random(shares.shape[1])
            for item in items
        ]
        below = shares.cumsum(-1) < torch.from_numpy(np.stack(drawn)).to(shares)[..., None]
        last = (shares > 0).cumsum(-1).argmax(-1)  # rounding may leave the sum below 1
        return Truth(latents, below.sum(-1).minimum(last))

    def _of(self, item: int, device: torch.device) -> Float[Tensor, "V"]:
        if item not in self._latents:
            with torch.no_grad():
                trajectory = self._dataset.trajectories([item], slice(0, self._frames))
                self._latents[item] = self._tokenizer(trajectory.to(device)).latents[0].cpu()
        return self._latents[item]
