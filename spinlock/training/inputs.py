"""The files that a NOA's training stands on, opened and held against its configuration.

Cheap: nothing but headers and the tokenizer's weights is read, so a search can ask before it
starts whether every trial of it could.
"""

from dataclasses import dataclass

from spinlock.data import TrajectoryDataset, open_dataset
from spinlock.errors import ArtifactError, TrainingError
from spinlock.training.batches import Split, split
from spinlock.training.config import NOATraining
from spinlock.training.losses import STATES, comparable
from spinlock.training.tokenizers import Foreign, fingerprint, read_tokenizer, refuse_unmatched
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """Data and tokenizer that fit each other and the configuration."""

    dataset: TrajectoryDataset
    split: Split
    tokenizer: Tokenizer | Foreign | None
    weights: dict[str, float]
    """The weight of each term of the loss that this tokenizer can give."""
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
        tokenizer = read_tokenizer(config.tokenizer)
        if isinstance(tokenizer, Foreign):
            if config.feature_matching == "exact":
                refuse_unmatched(tokenizer)
        else:
            try:
                tokenizer.expect(
                    frames=steps + 1, channels=info.channels, grid=(info.height, info.width)
                )
            except ArtifactError as error:
                raise ArtifactError(f"{config.tokenizer}: {error}") from None
        facts["tokenizer"] = fingerprint(config.tokenizer, tokenizer)
    weights = _weights(config, tokenizer)
    return Inputs(dataset, split(info, config.data, config.seed), tokenizer, weights, facts)


def _weights(config: NOATraining, tokenizer: Tokenizer | Foreign | None) -> dict[str, float]:
    """Leave out what is only measured and cannot be; a term with weight that cannot is an error.

    Without a tokenizer the configuration has no such weight, or its tokenizer is still to be made.
    """
    able = comparable(tokenizer.stand_in if isinstance(tokenizer, Foreign) else tokenizer)
    missing = [name for name, weight in config.loss.weights.items() if weight and name not in able]
    if missing and tokenizer is not None:
        raise TrainingError(
            f"{config.tokenizer}: this VQ-VAE cannot be compared with by {' and '.join(missing)}, "
            f"only by {', '.join(sorted(able - STATES))}. Set "
            f"{' and '.join(f'loss.lambda_{name}' for name in missing)} to 0."
        )
    return {name: weight for name, weight in config.loss.weights.items() if name in able}
