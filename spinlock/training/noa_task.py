"""The NOA imitating ground-truth rollouts, aligned with a frozen tokenizer."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from spinlock import artifact
from spinlock.data import open_dataset
from spinlock.errors import TrainingError
from spinlock.noa import UAFNO, LatentProjector, rollout, sampled_steps
from spinlock.noa.rollout import Rollout
from spinlock.training.batches import Batch, Windows, split
from spinlock.training.config import NOATraining
from spinlock.training.losses import TERMS, Alignment, Prediction
from spinlock.training.task import Task
from spinlock.vqvae import Tokenizer

STATISTICS_ITEMS = 256


class NOATask(Task):
    """U-AFNO and projector, trained; the tokenizer frozen; targets from the file.

    Raises DatasetError, ArtifactError or TrainingError when file, tokenizer and configuration
    do not fit each other.
    """

    selection = "val/traj"

    def __init__(self, config: NOATraining, device: torch.device) -> None:
        dataset = open_dataset(config.data.path)
        info, steps = dataset.info, config.rollout.timesteps
        if info.frames < steps + 1:
            raise TrainingError(
                f"{info.path}: rollout.timesteps {steps} needs {steps + 1} frames (the initial "
                f"one and {steps} steps); the file holds {info.frames}. "
                + (
                    f"Lower rollout.timesteps to {info.frames - 1} or less."
                    if info.frames > 1
                    else "It has no trajectories to imitate."
                )
            )
        self.config, self.device, self.info = config, device, info
        self.split = split(info, config.data, config.seed)
        window = config.rollout.window
        items = [*self.split.train, *self.split.validation]
        self.windows = Windows(dataset, items, steps, window)

        grid = (info.height, info.width)
        parameters = len(info.parameter_names)
        try:
            uafno = UAFNO(config.model, channels=info.channels, grid=grid, parameters=parameters)
        except ValueError as error:
            raise TrainingError(f"{info.path}: model.encoder_levels: {error}.") from None
        sample = self.windows.batch(self.split.train[:STATISTICS_ITEMS], torch.device("cpu"))
        fields = torch.cat([sample.initial[:, None], sample.target], 1).flatten(0, 1)
        uafno.fit_statistics(fields, sample.parameters)
        self.modules = nn.ModuleDict({"uafno": uafno})
        self.weights = {"traj": config.loss.lambda_traj}

        self.tokenizer: Tokenizer | None = None
        self.tapped: tuple[int, ...] = ()
        if config.tokenizer is not None:
            self.tokenizer = Tokenizer.load(config.tokenizer)
            self.tokenizer.expect(frames=steps + 1, channels=info.channels, grid=grid)
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
                "data_fingerprint": self.info.fingerprint,
                "training": self.config.model_dump(mode="json"),
                **provenance,
            },
        )
