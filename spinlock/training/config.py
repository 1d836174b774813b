"""What a training run is: frozen sections whose dotted paths are the names a search varies.

`task` chooses the class: NOATraining or VQVAETraining share everything in TrainingConfig.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from spinlock.config import Config, Lines, nearest, parse
from spinlock.errors import ConfigError
from spinlock.features import FeatureConfig
from spinlock.features.standardizer import CleaningConfig
from spinlock.location import Location
from spinlock.noa import EXACT, ComputeConfig, UAFNOConfig, sampled_steps
from spinlock.training.guards import NonfiniteGradients
from spinlock.training.losses import STATES, TERMS
from spinlock.vqvae.config import VQVAEConfig

WINDOW_TABLE = """\
  timesteps T      bptt_window
  T <= 16          none needed
  16 < T <= 32     optional: 16
  32 < T           required: 32"""


class DataConfig(Config):
    """Which items are trained on and which are held out.

    The split is by operator, so that two realizations of one operator never stand on both
    sides. `operators` takes the first so many of the file, `realizations` the first so many of
    each operator's (None: all). A realization is an item of its own; none are averaged.
    """

    path: Location
    operators: int | None = Field(None, ge=2)
    realizations: int | None = Field(None, ge=1)
    validation_fraction: float = Field(0.2, gt=0, lt=1)


class OptimizerConfig(Config):
    """AdamW with a linear warm-up from a tenth of the rate, then cosine to zero or constant."""

    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)


class TrainingConfig(Config):
    """What every task shares. `batch_size` is the effective batch of one update.

    If it does not fit into memory it is halved into micro-batches whose gradients add up to the
    same update, so `batch_size` is an optimization choice and never a memory accident;
    `micro_batch` sets the first size tried.
    """

    task: str
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = Field(4, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    epochs: int = Field(10, ge=1)
    early_stopping_patience: int | None = Field(None, ge=1)  # in epochs
    early_stopping_min_delta: float = Field(0.0, ge=0)  # less is no improvement
    val_every_n_epochs: int = Field(1, ge=1)  # a run reports when it has validated
    nonfinite: NonfiniteGradients = NonfiniteGradients()
    seed: int = Field(0, ge=0, lt=2**63)


class RolloutConfig(Config):
    """T applications of the operator, the last `bptt_window` of them with gradient."""

    timesteps: int = Field(32, ge=1)
    bptt_window: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _truncated(self) -> "RolloutConfig":
        if self.bptt_window is None and self.timesteps > 32:
            raise ValueError(
                f"timesteps {self.timesteps} without a bptt_window: gradients explode through "
                f"more than 32 steps. Set rollout.bptt_window:\n{WINDOW_TABLE}\n "
            )
        if self.bptt_window is not None and self.bptt_window > self.timesteps:
            raise ValueError(
                f"bptt_window {self.bptt_window} is longer than the {self.timesteps} timesteps"
            )
        return self

    @property
    def window(self) -> int:
        return self.timesteps if self.bptt_window is None else self.bptt_window


class NOALoss(Config):
    """L = sum of lambda_t L_t over the terms of `spinlock.training.losses`.

    A weight of 0 measures its term without training on it; the terms whose weight is None are not
    there at all. `latent_sample_steps` are the states that L_latent looks at (-1: all),
    `token_temperature` is that of soft token assignments (`Tokenizer.soft_codes`).
    """

    lambda_traj: float = Field(1.0, ge=0)
    lambda_commit: float = Field(0.5, ge=0)
    lambda_latent: float = Field(0.1, ge=0)
    latent_sample_steps: int = Field(3, ge=-1)
    lambda_ic: float | None = Field(None, ge=0)
    lambda_recon: float | None = Field(None, ge=0)
    lambda_tokens: float | None = Field(None, ge=0)
    lambda_project: float | None = Field(None, ge=0)
    lambda_augment: float | None = Field(None, ge=0)
    token_temperature: float = Field(1.0, gt=0)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term that is there, by its name."""
        found = {
            name.removeprefix("lambda_"): value
            for name, value in self
            if name.startswith("lambda_") and value is not None
        }
        return {name: found[name] for name in TERMS if name in found}


class NOATraining(TrainingConfig):
    """The NOA with its loss terms against a frozen tokenizer; without one, on states alone.

    A tokenizer of features that are not computed here is taken with `feature_matching`
    "pad-truncate" (see `spinlock.training.tokenizers`).
    """

    task: Literal["noa"] = "noa"
    tokenizer: Location | None = None
    feature_matching: Literal["exact", "pad-truncate"] = "exact"
    model: UAFNOConfig = UAFNOConfig()
    rollout: RolloutConfig = RolloutConfig()
    loss: NOALoss = NOALoss()
    compute: ComputeConfig = EXACT

    @model_validator(mode="after")
    def _consistent(self) -> "NOATraining":
        weights = self.loss.weights
        idle = [f"loss.lambda_{t}" for t in weights if t not in STATES and weights[t]]
        if self.tokenizer is None and idle:
            raise ValueError(
                f"{' and '.join(idle)}: it takes a tokenizer to compare with, and none is given. "
                "Set tokenizer to the directory of a trained VQ-VAE, or the weight to 0"
            )
        if not any(weights.values()):
            raise ValueError("every weight of the loss is 0: there is nothing to train")
        if self.tokenizer is not None:
            try:
                sampled_steps(self.loss.latent_sample_steps, self.rollout.window)
            except ValueError as error:
                raise ValueError(f"loss.latent_sample_steps: {error}") from None
        return self


class CompositeConfig(Config):
    """What the best epoch is chosen by: the composite of `spinlock.vqvae.metrics`, or its loss."""

    use_composite: bool = True
    loss_weight: float = Field(1.0, ge=0)
    topo_weight: float = Field(0.5, ge=0)
    quality_weight: float = Field(0.5, ge=0)


class VQVAETraining(TrainingConfig):
    """The tokenizer, trained on features of the ground truth's first `frames` frames (None: all).

    More `windows` of as many frames, spread over each trajectory, make more of few operators.
    `features_cache` is a directory where computed features are kept, for the next run on the
    same data. `use_torch_compile` pays on a GPU and on long runs: it starts minutes later.
    """

    task: Literal["vqvae"] = "vqvae"
    frames: int | None = Field(None, ge=4)
    windows: int = Field(1, ge=1)
    features: FeatureConfig = FeatureConfig()
    features_cache: Path | None = None
    cleaning: CleaningConfig = CleaningConfig()
    model: VQVAEConfig = VQVAEConfig()
    checkpoint: CompositeConfig = CompositeConfig()
    use_torch_compile: bool = False

    @model_validator(mode="after")
    def _frames_of_trajectories(self) -> "VQVAETraining":
        if self.features.source == "stored" and (self.frames is not None or self.windows > 1):
            raise ValueError("stored features have no frames to choose: leave frames, windows out")
        return self


TASKS: dict[str, type[NOATraining] | type[VQVAETraining]] = {
    "noa": NOATraining,
    "vqvae": VQVAETraining,
}


def training_model(
    document: Mapping[str, Any], where: str
) -> type[NOATraining] | type[VQVAETraining]:
    """The configuration class that the document's `task` names (the NOA if it names none)."""
    task = document.get("task", "noa")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(
            f"{where}: task: there is no task {task!r}. {nearest(str(task), [*TASKS])}"
        )
    return TASKS[task]


def training_config(
    document: Mapping[str, Any],
    *,
    where: str,
    lines: Lines | None = None,
    overrides: Sequence[str] = (),
) -> NOATraining | VQVAETraining:
    """`document` as the configuration of its task. Raises ConfigError with every fault."""
    model: type[NOATraining | VQVAETraining] = training_model(document, where)
    return parse(model, document, where=where, lines=lines, overrides=overrides)
