"""The ground truth as the frozen tokenizer sees it: computed once per item, then remembered."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock.data import TrajectoryDataset
from spinlock.vqvae import MatchedTokenizer, Tokenizer

_DRAW = 0xA06  # the random stream of drawn tokens
_TO_TRAIN, _TO_JUDGE = 0, 1


class Truths:
    """Latents of the data's trajectories of `frames` frames.

    An item is tokenized alone, when it is first asked for: its latents have the same bits whatever
    the batch.
    """

    def __init__(
        self, dataset: TrajectoryDataset, tokenizer: Tokenizer | MatchedTokenizer, frames: int
    ) -> None:
        self._dataset, self._tokenizer, self._frames = dataset, tokenizer, frames
        self._latents: dict[int, Tensor] = {}

    def of(self, items: Sequence[int], device: torch.device) -> Float[Tensor, "B V"]:
        """The latents of `items`, without gradient."""
        return torch.stack([self._of(item, device) for item in items]).to(device)

    def _of(self, item: int, device: torch.device) -> Float[Tensor, "V"]:
        if item not in self._latents:
            with torch.no_grad():
                trajectory = self._dataset.trajectories([item], slice(0, self._frames))
                self._latents[item] = self._tokenizer(trajectory.to(device)).latents[0].cpu()
        return self._latents[item]


@torch.no_grad()
def draw_tokens(
    tokenizer: Tokenizer,
    latents: Float[Tensor, "B V"],
    items: Sequence[int],
    *,
    temperature: float,
    seed: int,
    epoch: int | None,
) -> Int[Tensor, "B Q"]:
    """A token sequence for each item, from the soft assignments of its latents.

    An item's is a function of (seed, item, epoch), so a resumed run draws the same; `epoch` None
    draws those to judge by.
    """
    shares = tokenizer.soft_codes(latents, temperature).exp()
    stream = (_TO_JUDGE, 0) if epoch is None else (_TO_TRAIN, epoch)
    uniform = [
        np.random.default_rng([seed, item, *stream, _DRAW]).random(shares.shape[1])
        for item in items
    ]
    below = shares.cumsum(-1) < torch.from_numpy(np.stack(uniform)).to(shares)[..., None]
    last = (shares > 0).cumsum(-1).argmax(-1)  # rounding may leave the sum below 1
    return below.sum(-1).minimum(last)
