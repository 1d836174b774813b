"""A trained NOA, loaded in one line: `NeuralOperatorAgent.load("best-noa").rollout(u0, theta, 64)`.

Needs neither the dataset, nor the tokenizer, nor Ray.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spinlock import artifact
from spinlock.config import parse
from spinlock.errors import ArtifactError
from spinlock.noa.rollout import rollout
from spinlock.noa.uafno import UAFNO, UAFNOConfig

KIND = "noa"


class NeuralOperatorAgent:
    """The U-AFNO with the names of what it was trained on, and how well it did.

    `channels` and `parameters` name the field's channels and the conditioning's entries in
    order; `grid` is (H, W); `metrics` are those of the epoch that it was exported from.
    """

    def __init__(
        self,
        model: UAFNO,
        *,
        channels: tuple[str, ...],
        parameters: tuple[str, ...],
        grid: tuple[int, int],
        metrics: dict[str, Any],
        provenance: dict[str, Any],
    ) -> None:
        self.model = model.eval()
        self.channels = channels
        self.parameters = parameters
        self.grid = grid
        self.metrics = metrics
        self.provenance = provenance

    @classmethod
    def load(cls, path: Path | str) -> "NeuralOperatorAgent":
        """The agent in artifact directory `path`. Raises ArtifactError if it is not one."""
        found = artifact.load(Path(path), KIND)
        try:
            channels, parameters = found.config["channels"], found.config["parameters"]
            height, width = found.config["grid"]
            sizes = found.config["model"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: damaged: its config lacks {error}.") from None
        model = UAFNO(
            parse(UAFNOConfig, sizes, where=str(path)),
            channels=len(channels),
            grid=(height, width),
            parameters=len(parameters),
        )
        weights = {
            name.removeprefix("uafno."): tensor
            for name, tensor in found.weights.items()
            if name.startswith("uafno.")
        }
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(f"{path}: weights do not fit its config: {error}") from None
        return cls(
            model,
            channels=tuple(channels),
            parameters=tuple(parameters),
            grid=(height, width),
            metrics=found.metrics,
            provenance=found.provenance,
        )

    @torch.no_grad()
    def rollout(
        self, initial: Float[Tensor, "B C H W"], parameters: Float[Tensor, "B P"], timesteps: int
    ) -> Float[Tensor, "B F C H W"]:
        """Frames 0 .. timesteps; frame 0 is `initial`.

        Raises ValueError for fields or parameters of other sizes than it was trained on, and
        for a negative number of steps.
        """
        expected = (len(self.channels), *self.grid)
        found = tuple(initial.shape[1:])
        if found != expected:
            raise ValueError(
                f"initial fields [C, H, W] = {list(found)}; trained on {list(expected)}, the "
                f"channels {', '.join(self.channels)}"
            )
        if tuple(parameters.shape) != (len(initial), len(self.parameters)):
            raise ValueError(
                f"parameters of shape {list(parameters.shape)}; expected "
                f"{[len(initial), len(self.parameters)]}: for each field "
                f"{', '.join(self.parameters) or 'none'}"
            )
        if timesteps < 0:
            raise ValueError(f"timesteps must be at least 0, not {timesteps}")
        return rollout(
            self.model, initial, parameters, timesteps=timesteps, window=timesteps
        ).frames
