"""The NOA imitating ground-truth rollouts, aligned with a frozen tokenizer."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from spinlock import artifact
from spinlock.noa import UAFNO, LatentProjector, rollout, sampled_steps
from spinlock.noa.rollout import Rollout
from spinlock.training.batches import Batch, Windows
from spinlock.training.config import NOATraining
from spinlock.training.inputs import open_inputs
from spinlock.training.losses import TERMS, Alignment, Prediction
from spinlock.training.task import Task

STATISTICS_ITEMS = 256


class NOATask(Task):
    """U-AFNO and projector, trained; the tokenizer frozen; targets from the file.

    Raises DatasetError, ArtifactError or TrainingError when file, tokenizer and configuration
    do not fit each other.
    """

    selection = "val/traj"

    def __init__(self, config: NOATraining, device: torch.device) -> None:
        inputs = open_inputs(config)
        self.config, self.device, self.info = config, device, inputs.dataset.info
        self.split, self.facts = inputs.split, inputs.facts
        window = config.rollout.window
        items = [*self.split.train, *self.split.validation]
        self.windows = Windows(inputs.dataset, items, config.rollout.timesteps, window)

        uafno = UAFNO(
            config.model,
            channels=self.info.channels,
            grid=(self.info.height, self.info.width),
            parameters=len(self.info.parameter_names),
        )
        # Evenly spaced: a file may be sorted by regime.
        spaced = self.split.train[:: math.ceil(len(self.split.train) / STATISTICS_ITEMS)]
        sample = self.windows.batch(spaced, torch.device("cpu"))
        fields = torch.cat([sample.initial[:, None], sample.target], 1).flatten(0, 1)
        uafno.fit_statistics(fields, inputs.dataset.parameters(self.split.train))
        self.modules = nn.ModuleDict({"uafno": uafno})
        self.weights = {"traj": config.loss.lambda_traj}

        self.tokenizer = inputs.tokenizer
        self.tapped: tuple[int, ...] = ()
        if self.tokenizer is not None:
            self.tokenizer.to(device)
            self.tapped = sampled_steps(config.loss.latent_sample_steps, window)
            self.modules["projector"] = LatentProjector(
                config.model.bottleneck_channels, self.tokenizer.latent_dim
            )
            self.weights |= {
                "commit": config.loss.lambda_commit,
                "latent": config.loss.lambda_latent,
            }
        self.modules.to(device)

    def terms(self, items: Sequence[int]) -> dict[str, Tensor]:
        """L_traj, and with a tokenizer L_commit and L_latent, as means over `items`."""
        return self._measure(items, self.tapped)

    @override
    def scores(self, items: Sequence[int]) -> dict[str, Tensor]:
        """As `terms`, with L_latent over every state of the window, however many are trained on.

        Otherwise val/latent of trials that sample 3 states and all of them would be two metrics.
        """
        return self._measure(items, range(self.config.rollout.window))

    def _measure(self, items: Sequence[int], tapped: Collection[int]) -> dict[str, Tensor]:
        prediction = self.predict(self.windows.batch(items, self.device), tapped)
        return {name: TERMS[name](prediction) for name in self.weights}

    def predict(self, batch: Batch, tapped: Collection[int]) -> Prediction:
        """Roll the U-AFNO out from the initial conditions and align the rollout.

        `tapped` are the steps of the window whose bottlenecks are projected for L_latent.
        """
        uafno = self.modules["uafno"]
        assert isinstance(uafno, UAFNO)
        rolled = rollout(
            uafno,
            batch.initial,
            batch.parameters,
            timesteps=self.config.rollout.timesteps,
            window=self.config.rollout.window,
            tapped=tapped if self.tokenizer is not None else (),
        )
        return Prediction(rolled.supervised, batch.target, self._align(rolled))

    def _align(self, rolled: Rollout) -> Alignment | None:
        if self.tokenizer is None or rolled.taps is None:
            return None
        # L_latent takes the latents as its fixed target, so only L_commit sends gradient back
        # through the features; without weight on it that backward pass is saved.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights["commit"] > 0):
            seen = self.tokenizer(rolled.frames)
        projected = self.modules["projector"](rolled.taps).mean(1)
        return Alignment(seen.latents, seen.quantized, projected)

    def export(self, path: Path, metrics: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write an artifact of kind "noa": U-AFNO and projector with all that rebuilds them."""
        artifact.save(
            path,
            kind="noa",
            config={
                "model": self.config.model.model_dump(mode="json"),
                "channels": list(self.info.channel_names),
                "grid": [self.info.height, self.info.width],
                "parameters": list(self.info.parameter_names),
            },
            weights=self.modules.state_dict(),
            metrics=metrics,
            provenance={
                "facts": self.facts,
                "training": self.config.model_dump(mode="json"),
                **provenance,
            },
        )
