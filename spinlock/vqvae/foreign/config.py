"""What rebuilds a VQ-VAE of the research prototype around its weights, and what came with it."""

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from spinlock.config import Config
from spinlock.vqvae.layout import Level


class Normalization(Config):
    """How the prototype standardized one category's features: (x - center) / scale.

    "standard" is mean and standard deviation; "robust" is the median, and 1.4826 times the median
    absolute deviation. Neither was fitted on the CNN's outputs.
    """

    method: Literal["standard", "robust"]
    center: tuple[float, ...]
    scale: tuple[float, ...]


class PrototypeCategory(Config):
    """One category: the inputs it reads, its codebooks, and its features before standardizing.

    `inputs` are indices into the model's inputs, `features` into `feature_names`; the first has
    the CNN's outputs besides. What the checkpoint does not say is None.
    """

    name: str
    inputs: tuple[int, ...]
    levels: tuple[Level, ...]
    features: tuple[int, ...] | None
    normalization: Normalization | None


class InitialEncoderConfig(Config):
    """The CNN on initial fields: `manual` columns of features, then `outputs` of its own.

    `widths` are the channels of its four stages.
    """

    channels: int = Field(ge=1)
    manual: int = Field(ge=0)
    widths: tuple[int, int, int, int]
    outputs: int = Field(ge=1)


class PrototypeConfig(Config):
    """All sizes, and the features' names and treatment.

    `feature_mask` is true for the raw features that cleaning kept, in their order the
    `feature_names`; `cleaning` are its parameters as they stand in the checkpoint. The model's
    inputs are these features, standardized, with the CNN's outputs put in after the
    `initial.manual` first. What the checkpoint does not say is None.
    """

    inputs: int = Field(ge=1)
    categories: tuple[PrototypeCategory, ...] = Field(min_length=1)
    hidden_dim: int = Field(ge=1)
    embedding_dim: int = Field(ge=1)
    decoder_hidden_dim: int = Field(ge=1)
    initial: InitialEncoderConfig | None
    feature_names: tuple[str, ...] | None
    feature_mask: tuple[bool, ...] | None
    cleaning: dict[str, JsonValue] | None

    @property
    def codebooks(self) -> tuple[Level, ...]:
        """All codebooks, category-major."""
        return tuple(level for category in self.categories for level in category.levels)

    @model_validator(mode="after")
    def _indices_exist(self) -> "PrototypeConfig":
        for category in self.categories:
            if not all(0 <= index < self.inputs for index in category.inputs):
                raise ValueError(f"{category.name} reads inputs that are not among {self.inputs}")
        return self
