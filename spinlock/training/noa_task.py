"""The NOA imitating ground-truth rollouts, aligned with a frozen tokenizer."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from spinlock import artifact
from spinlock.noa import EXACT, UAFNO, LatentProjector, rollout, sampled_steps
from spinlock.noa.rollout import Rollout
from spinlock.training.batches import Batch, Windows
from spinlock.training.config import NOATraining
from spinlock.training.inputs import open_inputs
from spinlock.training.losses import (
    OF_TRUTH,
    TERMS,
    THROUGH_FEATURES,
    Alignment,
    Prediction,
    Truth,
)
from spinlock.training.task import Task
from spinlock.training.tokenizers import Foreign, match
from spinlock.training.truth import Truths, draw_tokens
from spinlock.vqvae import Tokenizer

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
        if config.compute.use_torch_compile:  # in place: the names of the weights stay
            uafno.compile()
        self.modules = nn.ModuleDict({"uafno": uafno})
        self.weights = inputs.weights
        self.epoch = 0

        self.tokenizer = (
            match(inputs.tokenizer, inputs.dataset, spaced, config.rollout.timesteps + 1)
            if isinstance(inputs.tokenizer, Foreign)
            else inputs.tokenizer
        )
        self.tapped: tuple[int, ...] = ()
        self.truths: Truths | None = None
        if self.tokenizer is not None:
            self.tokenizer.to(device)
            self.tapped = sampled_steps(config.loss.latent_sample_steps, window)
            width = self.tokenizer.latent_dim
            self.modules["projector"] = LatentProjector(config.model.bottleneck_channels, width)
            if "project" in self.weights:
                self.modules["feature_projector"] = LatentProjector(self.tokenizer.inputs, width)
            if OF_TRUTH & self.weights.keys():
                self.truths = Truths(inputs.dataset, self.tokenizer, config.rollout.timesteps + 1)
        self.modules.to(device)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def terms(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Each term that has a weight, 0 included, as its mean over `items`."""
        return self._measure(items, self.tapped, self.epoch)

    @override
    def scores(self, items: Sequence[int]) -> dict[str, Tensor]:
        """As `terms`, with L_latent over every state of the window, however many are trained on.

        Otherwise val/latent of trials that sample 3 states and all of them would be two metrics.
        Tokens are drawn the same in each epoch.
        """
        return self._measure(items, range(self.config.rollout.window), None)

    def _measure(
        self, items: Sequence[int], tapped: Collection[int], epoch: int | None
    ) -> dict[str, Tensor]:
        truth = self._truth(items, epoch)
        prediction = self.predict(self.windows.batch(items, self.device), tapped, truth)
        return {name: TERMS[name](prediction) for name in self.weights}

    def _truth(self, items: Sequence[int], epoch: int | None) -> Truth | None:
        if self.truths is None:
            return None
        latents = self.truths.of(items, self.device)
        if "augment" not in self.weights:
            return Truth(latents)
        assert isinstance(self.tokenizer, Tokenizer)
        temperature, seed = self.config.loss.token_temperature, self.config.seed
        drawn = draw_tokens(
            self.tokenizer, latents, items, temperature=temperature, seed=seed, epoch=epoch
        )
        return Truth(latents, drawn)

    def predict(
        self, batch: Batch, tapped: Collection[int], truth: Truth | None = None
    ) -> Prediction:
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
            first="ic" in self.weights,
            compute=self.config.compute if uafno.training else EXACT,
        )
        return Prediction(
            rolled.supervised,
            batch.target,
            self._align(rolled, truth),
            batch.initial,
            rolled.first,
        )

    def _align(self, rolled: Rollout, truth: Truth | None) -> Alignment | None:
        if self.tokenizer is None or rolled.taps is None:
            return None
        # L_latent takes the latents as its fixed target. If no term sends gradient back through
        # the features, that backward pass is saved.
        through = any(self.weights.get(term) for term in THROUGH_FEATURES)
        with torch.set_grad_enabled(torch.is_grad_enabled() and through):
            seen = self.tokenizer(rolled.frames)
        projector = self.modules["feature_projector"] if "project" in self.weights else None
        return Alignment(
            self.tokenizer,
            seen,
            projected=self.modules["projector"](rolled.taps).mean(1),
            mapped=None if projector is None else projector(seen.features),
            truth=truth,
            temperature=self.config.loss.token_temperature,
        )

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
