"""What a checkpoint of the prototype says about its model besides the tensors, as typed data."""

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign.archive import open_archive

Statistics = dict[str, dict[str, tuple[float, ...]]]


class SaidLevel(BaseModel):
    """A codebook as a config has it: the prototype fills in later what is None."""

    num_tokens: int | None = None
    latent_dim: int | None = None


class SaidFamily(BaseModel):
    """How a family of features was encoded."""

    encoder_params: dict[str, JsonValue] = {}


class Facts(BaseModel):
    """Everything that is read of a checkpoint besides its tensors; None where it says nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_dim: int | None = None
    group_hidden_dim: int | None = None
    group_embedding_dim: int | None = None
    group_indices: dict[str, tuple[int, ...]] | None = None
    levels: dict[str, tuple[SaidLevel, ...]] | tuple[SaidLevel, ...] | None = None
    families: dict[str, SaidFamily] | None = None
    feature_names: tuple[str, ...] | None = None
    feature_mask: tuple[bool, ...] | None = None
    feature_cleaning_params: dict[str, JsonValue] | None = None
    pre_model_group_indices: dict[str, tuple[int, ...]] | None = None
    normalization_stats: Statistics | None = None

    def of_category(self, name: str) -> tuple[SaidLevel, ...]:
        """The codebooks of one category; empty where nothing is said about them."""
        levels = self.levels or ()
        return levels.get(name, ()) if isinstance(levels, dict) else levels


def read_facts(content: Mapping[str, Any], where: str) -> Facts:
    """The facts of a checkpoint that `read_checkpoint` gave.

    The prototype's `model_config` is what it resolved and goes first, then the `config` that it
    was asked for; older ones have the same keys at the top. Raises ArtifactError for a fact of
    another form.
    """
    sections = [*(section(content, key, where) for key in ("model_config", "config")), content]
    said = {
        key: next((s[key] for s in sections if not _empty(s.get(key))), None)
        for key in Facts.model_fields
    }
    try:
        return Facts.model_validate(plain(said))
    except ValidationError as error:
        raise told(error, where) from None


def section(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The dictionary under `key`, empty where there is none."""
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise ArtifactError(f"{where}: its '{key}' is a {type(found).__name__}, not a dictionary.")
    return found


def told(error: ValidationError, where: str) -> ArtifactError:
    """The first fault that pydantic found, as ours."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return ArtifactError(
        f"{where}: its config is not one of the prototype: {place}: {fault['msg']}."
    )


def read_statistics(path: Path) -> Statistics:
    """The statistics in a `normalization_stats.npz`, by category and by name."""
    found: dict[str, dict[str, Any]] = {}
    with open_archive(path) as archive:
        for member in sorted(archive.names):
            if not member.startswith("_"):
                try:
                    values = np.load(BytesIO(archive.read(member)), allow_pickle=False)
                except (ValueError, EOFError) as error:
                    raise ArtifactError(f"{path}: its '{member}' is damaged: {error}") from None
                category, _, name = member.removesuffix(".npy").rpartition("_")
                found.setdefault(category, {})[name] = plain(values)
    try:
        return TypeAdapter(Statistics).validate_python(found)
    except ValidationError as error:
        raise told(error, str(path)) from None


def plain(value: Any) -> Any:
    """As JSON has it: lists for arrays and tensors, text for numbers that are not finite."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("latin1")
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list | tuple) and not value)
