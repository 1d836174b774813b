"""From a checkpoint of the research prototype to a model, checked against its own config.

Sizes are those of the tensors. Whatever the checkpoint says about them besides must agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign.checkpoint import read_checkpoint
from spinlock.vqvae.foreign.config import (
    InitialEncoderConfig,
    Normalization,
    PrototypeCategory,
    PrototypeConfig,
)
from spinlock.vqvae.foreign.facts import (
    Facts,
    Statistics,
    plain,
    read_facts,
    read_statistics,
    section,
    told,
)
from spinlock.vqvae.foreign.prototype import PrototypeVQVAE
from spinlock.vqvae.foreign.weights import Sizes, rename
from spinlock.vqvae.layout import Level

STATISTICS = "normalization_stats.npz"

# The statistics' names in a checkpoint, and what they are.
_METHODS: dict[tuple[str, str], Literal["standard", "robust"]] = {
    ("mean", "std"): "standard",
    ("median", "mad"): "robust",
}


@dataclass(frozen=True)
class Prototype:
    """A checkpoint: the model, the metrics of its epoch, and the recipe that it was trained by."""

    vqvae: PrototypeVQVAE
    metrics: dict[str, Any]
    recipe: dict[str, Any]


def load_prototype(path: Path) -> Prototype:
    """The checkpoint at `path`, compared with the `normalization_stats.npz` beside it, if any.

    Raises ArtifactError when it is not one, is damaged, or contradicts itself. Nothing in it is
    run.
    """
    where = str(path)
    content = read_checkpoint(path)
    state = section(content, "model_state_dict", where)
    if not state:
        raise ArtifactError(f"{where}: not a checkpoint of the prototype: no model_state_dict.")
    weights, sizes = rename(state, where)
    facts = read_facts(content, where)
    _compare_sizes(facts, sizes, where)
    twin = path.with_name(STATISTICS)
    if facts.normalization_stats is not None and twin.is_file():
        _compare_statistics(facts.normalization_stats, path, twin)
    try:
        config = _config(facts, sizes, where)
    except ValidationError as error:
        raise told(error, where) from None
    metrics = plain(section(content, "metrics", where))
    metrics |= {key: plain(content[key]) for key in ("epoch", "val_loss") if key in content}
    recipe = plain(section(content, "config", where))
    return Prototype(PrototypeVQVAE(config, weights, where), metrics, recipe)


def _agree(where: str, what: str, said: Any, found: Any, by: str = "its tensors") -> None:
    if said is not None and said != found:
        raise ArtifactError(
            f"{where}: it contradicts itself: {what} is {said} in its config, but {found} by {by}."
        )


def _compare_sizes(facts: Facts, sizes: Sizes, where: str) -> None:
    _agree(where, "input_dim", facts.input_dim, sizes.inputs)
    _agree(where, "group_hidden_dim", facts.group_hidden_dim, sizes.hidden_dim)
    _agree(where, "group_embedding_dim", facts.group_embedding_dim, sizes.embedding_dim)
    books = iter(sizes.codebooks)
    for name, count in sizes.levels.items():
        found = [next(books) for _ in range(count)]
        said = facts.of_category(name)
        _agree(where, f"the number of levels of {name}", len(said) or None, count)
        for level, (wanted, (tokens, width)) in enumerate(zip(said, found, strict=False)):
            _agree(where, f"num_tokens of {name} at level {level}", wanted.num_tokens, tokens)
            _agree(where, f"latent_dim of {name} at level {level}", wanted.latent_dim, width)
    outputs = 0 if sizes.initial is None else sizes.initial[2]
    if facts.feature_names is not None:
        count = len(facts.feature_names)
        _agree(where, "the number of feature_names", count, sizes.inputs - outputs)
        if facts.feature_mask is not None:
            kept = sum(facts.feature_mask)
            _agree(where, "the number of feature_names", count, kept, by="its feature_mask")


def _compare_statistics(statistics: Statistics, path: Path, twin: Path) -> None:
    beside = read_statistics(twin)
    for name in sorted(statistics.keys() | beside.keys()):
        if statistics.get(name) != beside.get(name):
            raise ArtifactError(
                f"{path}: the statistics of {name} in it are not those in {twin.name} beside it: "
                "the two files are of different runs. Bring the right one, or move the second away."
            )


def _config(facts: Facts, sizes: Sizes, where: str) -> PrototypeConfig:
    inputs = _inputs(facts, sizes, where)
    books = iter(sizes.codebooks)
    categories = []
    for name, count in sizes.levels.items():
        features = (facts.pre_model_group_indices or {}).get(name)
        levels = [next(books) for _ in range(count)]
        categories.append(
            PrototypeCategory(
                name=name,
                inputs=inputs[name],
                levels=tuple(Level(num_tokens=size, latent_dim=width) for size, width in levels),
                features=features,
                normalization=_normalization(facts, name, features, where),
            )
        )
    return PrototypeConfig(
        inputs=sizes.inputs,
        categories=tuple(categories),
        hidden_dim=sizes.hidden_dim,
        embedding_dim=sizes.embedding_dim,
        decoder_hidden_dim=sizes.decoder_hidden_dim,
        initial=_initial(facts, sizes, where),
        feature_names=facts.feature_names,
        feature_mask=facts.feature_mask,
        cleaning=facts.feature_cleaning_params,
    )


def _inputs(facts: Facts, sizes: Sizes, where: str) -> dict[str, tuple[int, ...]]:
    """Each category's indices into the inputs."""
    found = facts.group_indices
    if found is None and sizes.initial is None:  # without a CNN's columns both are the same
        found = facts.pre_model_group_indices
    if found is None:
        raise ArtifactError(
            f"{where}: it does not say which inputs a category reads: there is no group_indices in "
            "its model_config, its config or beside them, and its tensors cannot tell."
        )
    # Codebooks are numbered in the config's order, the layers before them named.
    _agree(where, "the order of the categories", [*found], [*sizes.levels])
    for name, width in sizes.category_inputs.items():
        _agree(where, f"the number of inputs of {name}", len(found[name]), width)
    return found


def _normalization(
    facts: Facts, name: str, features: Sequence[int] | None, where: str
) -> Normalization | None:
    if facts.normalization_stats is None:
        return None
    found = facts.normalization_stats.get(name, {})
    for (center, scale), method in _METHODS.items():
        if found.keys() == {center, scale}:
            for kind in (center, scale):
                count = None if features is None else len(features)
                _agree(where, f"the number of features of {name}", count, len(found[kind]), kind)
            return Normalization(method=method, center=found[center], scale=found[scale])
    raise ArtifactError(
        f"{where}: the normalization_stats of {name} are {sorted(found)}; "
        "expected mean and std, or median and mad."
    )


def _initial(facts: Facts, sizes: Sizes, where: str) -> InitialEncoderConfig | None:
    if sizes.initial is None:
        return None
    channels, widths, outputs = sizes.initial
    family = (facts.families or {}).get("initial")
    said = None if family is None else family.encoder_params.get("manual_dim")
    named = None
    if facts.feature_names is not None:
        named = sum(name.startswith("initial::") for name in facts.feature_names)
        _agree(where, "manual_dim of family 'initial'", said, named, by="its feature_names")
    manual = named if said is None else said
    if manual is None:
        raise ArtifactError(
            f"{where}: it does not say how many features its encoder of initial fields passes on: "
            "there are neither feature_names nor families.initial.encoder_params.manual_dim."
        )
    return InitialEncoderConfig.model_validate(
        {"channels": channels, "manual": manual, "widths": widths, "outputs": outputs}
    )
