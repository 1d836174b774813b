"""The files that a NOA's training stands on, opened and held against its configuration.

Cheap: nothing but headers and the tokenizer's weights is read, so a search can ask before it
starts whether every trial of it could.
"""

from dataclasses import dataclass

from spinlock import artifact
from spinlock.data import TrajectoryDataset, open_dataset
from spinlock.errors import ArtifactError, TrainingError
from spinlock.training.batches import Split, split
from spinlock.training.config import NOATraining
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """Data and tokenizer that fit each other and the configuration."""

    dataset: TrajectoryDataset
    split: Split
    tokenizer: Tokenizer | None
    facts: dict[str, str]
    """Fingerprints of both: what a resumed or re-evaluated run must find again."""


def open_inputs(config: NOATraining) -> Inputs:
    """Raises DatasetError, ArtifactError or TrainingError when they do not fit."""
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
    factor = 2**config.model.encoder_levels
    if info.height % factor or info.width % factor:
        raise TrainingError(
            f"{info.path}: model.encoder_levels: its grid of {info.height} x {info.width} does "
            f"not divide by 2**encoder_levels = {factor}. Lower model.encoder_levels."
        )
    facts = {"data": info.fingerprint}
    tokenizer = None
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(config.tokenizer)
        try:
            tokenizer.expect(
                frames=steps + 1, channels=info.channels, grid=(info.height, info.width)
            )
        except ArtifactError as error:
            raise ArtifactError(f"{config.tokenizer}: {error}") from None
        facts["tokenizer"] = artifact.weights_fingerprint(config.tokenizer)
    return Inputs(dataset, split(info, config.data, config.seed), tokenizer, facts)
