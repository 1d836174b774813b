"""A tokenizer's training in the flat keys of the project's VQ-VAE documents.

A thin face over `VQVAETraining`: every key stands there under a section, and `training` moves it.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from spinlock.features import FeatureConfig
from spinlock.features.standardizer import CleaningConfig
from spinlock.training.config import (
    CompositeConfig,
    DataConfig,
    OptimizerConfig,
    VQVAETraining,
)
from spinlock.vqvae.config import VQVAEConfig


class VQVAERecipe(VQVAEConfig):
    """One run of `spinlock train-vqvae`; defaults are the documents' production recipe.

    Model keys are those of VQVAEConfig. `input` is a data file of any layout; `output` the
    directory that the run writes. `frames` None means all of the file's.
    """

    input: Path
    output: Path
    seed: int = Field(0, ge=0, lt=2**63)
    operators: int | None = Field(None, ge=2)  # the first so many of the file; None: all
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    frames: int | None = Field(None, ge=4)
    windows: int = Field(1, ge=1)
    features: FeatureConfig = FeatureConfig()
    features_cache: Path | None = None
    cleaning: CleaningConfig = CleaningConfig()

    epochs: int = Field(410, ge=1)
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(7e-4, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.0, ge=0)
    use_torch_compile: bool = True
    val_every_n_epochs: int = Field(5, ge=1)

    checkpoint_use_composite: bool = True
    checkpoint_loss_weight: float = Field(1.0, ge=0)
    checkpoint_topo_weight: float = Field(0.5, ge=0)
    checkpoint_quality_weight: float = Field(0.5, ge=0)
    early_stopping_patience: int | None = Field(250, ge=1)  # in epochs
    early_stopping_min_delta: float = Field(0.001, ge=0)

    def training(self) -> VQVAETraining:
        """The same run as a training configuration."""
        return VQVAETraining(
            data=DataConfig(
                path=self.input,
                operators=self.operators,
                validation_fraction=self.validation_fraction,
            ),
            optimizer=OptimizerConfig(
                lr=self.learning_rate, weight_decay=self.weight_decay, schedule=self.lr_schedule
            ),
            model=VQVAEConfig(**_members(self, VQVAEConfig)),
            checkpoint=CompositeConfig(
                use_composite=self.checkpoint_use_composite,
                loss_weight=self.checkpoint_loss_weight,
                topo_weight=self.checkpoint_topo_weight,
                quality_weight=self.checkpoint_quality_weight,
            ),
            **{name: getattr(self, name) for name in _SHARED},
        )


_SHARED = (
    *("seed", "frames", "windows", "features", "features_cache", "cleaning"),
    *("epochs", "batch_size", "use_torch_compile", "val_every_n_epochs"),
    *("early_stopping_patience", "early_stopping_min_delta"),
)


def _members(recipe: VQVAERecipe, section: type[VQVAEConfig]) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in section.model_fields}
