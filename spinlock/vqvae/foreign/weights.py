"""The prototype's tensors under this project's names, and the sizes that they say.

The prototype wrote its keys in several ways: as they are, behind `vqvae.` beside an
`initial_encoder`, and both behind the `_orig_mod.` of `torch.compile`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spinlock.errors import ArtifactError

_EMBEDDER = re.compile(r"feature_extractor\.group_mlps\.([^.]+)\.net\.([034])\.(weight|bias)")
_PROJECTOR = re.compile(r"projector\.projection_heads\.([^.]+)\.(\d+)\.([02])\.(weight|bias)")
_CODEBOOK = re.compile(r"vq_layers\.(\d+)\.embedding\.weight")
_DECODER = re.compile(r"shared_decoder\.([03])\.(weight|bias)")
_INITIAL = re.compile(r"initial_encoder\.cnn_encoder\.(.+)")
_LEFT_OUT = re.compile(r"vq_layers\.\d+\.ema_(cluster_size|w)|partial_decoders\..+")

# A layer's place in the prototype's `Sequential`s, and in ours, which have no dropout.
_EMBEDDER_LAYERS = {"0": 0, "3": 2, "4": 3}
_PROJECTOR_LAYERS = {"0": 0, "2": 1}
_DECODER_LAYERS = {"0": 0, "3": 2}


@dataclass(frozen=True)
class Sizes:
    """What the tensors' shapes say. `levels` counts each category's, in the tensors' order.

    `codebooks` are (tokens, latent entries), category-major; `initial` (channels, widths of the
    four stages, outputs).
    """

    inputs: int
    category_inputs: dict[str, int]
    levels: dict[str, int]
    codebooks: tuple[tuple[int, int], ...]
    hidden_dim: int
    embedding_dim: int
    decoder_hidden_dim: int
    initial: tuple[int, tuple[int, int, int, int], int] | None


def rename(state: Mapping[str, object], where: str) -> tuple[dict[str, Tensor], Sizes]:
    """`PrototypeVQVAE`'s weights from a `model_state_dict` of any layout, and their sizes.

    Left out is what only training used: the codebooks' moving averages and the partial decoders.
    Raises ArtifactError for keys that are missing, ambiguous or unknown: they belong to a model of
    another kind, which would give other numbers.
    """
    plain = _without_prefixes(state, where)
    categories: dict[str, int] = {}
    heads: dict[str, int] = {}
    for key in plain:
        if found := _EMBEDDER.fullmatch(key):
            categories.setdefault(found[1], len(categories))
        if found := _PROJECTOR.fullmatch(key):
            heads[found[1]] = max(heads.get(found[1], 0), int(found[2]) + 1)
    if not categories:
        raise ArtifactError(
            f"{where}: not a VQ-VAE of the prototype: no key of its model_state_dict names "
            "'feature_extractor.group_mlps'."
        )
    if categories.keys() != heads.keys():
        raise ArtifactError(
            f"{where}: its tensors encode the categories {sorted(categories)}, but project "
            f"{sorted(heads)}."
        )
    before, first = 0, {}
    for name in categories:
        first[name], before = before, before + heads[name]

    def renamed(key: str) -> str | None:
        if found := _EMBEDDER.fullmatch(key):
            return f"embedders.{categories[found[1]]}.{_EMBEDDER_LAYERS[found[2]]}.{found[3]}"
        if found := _PROJECTOR.fullmatch(key):
            book, layer = first[found[1]] + int(found[2]), _PROJECTOR_LAYERS[found[3]]
            return f"projectors.{book}.{layer}.{found[4]}"
        if found := _CODEBOOK.fullmatch(key):
            return f"codebooks.{found[1]}"
        if found := _DECODER.fullmatch(key):
            return f"decoder.{_DECODER_LAYERS[found[1]]}.{found[2]}"
        if found := _INITIAL.fullmatch(key):
            return f"initial.{found[1]}"
        return None

    unknown = [key for key in plain if not renamed(key) and not _LEFT_OUT.fullmatch(key)]
    if unknown:
        raise ArtifactError(
            f"{where}: its model has tensors of a kind that is not known: {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}. Models without these can be read."
        )
    weights = {new: value for key, value in plain.items() if (new := renamed(key))}
    return weights, _sizes(weights, categories, heads, where)


def _without_prefixes(state: Mapping[str, object], where: str) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ArtifactError(f"{where}: model_state_dict has {key!r}, which is not a tensor.")
        parts = [part for part in key.split(".") if part != "_orig_mod"]
        name = ".".join(parts[1:] if parts[0] == "vqvae" else parts)
        if name in plain:
            raise ArtifactError(f"{where}: model_state_dict has two tensors for '{name}'.")
        plain[name] = value.to(torch.float32) if value.is_floating_point() else value
    return plain


def _sizes(
    weights: Mapping[str, Tensor], categories: dict[str, int], heads: dict[str, int], where: str
) -> Sizes:
    def shape(name: str, rank: int = 2) -> torch.Size:
        if name not in weights:
            raise ArtifactError(f"{where}: its model_state_dict has no tensor for '{name}'.")
        found = weights[name].shape
        if len(found) != rank or 0 in found:
            raise ArtifactError(f"{where}: the tensor for '{name}' has the shape {tuple(found)}.")
        return found

    hidden, _ = shape("embedders.0.0.weight")
    decoder_hidden, _ = shape("decoder.0.weight")
    return Sizes(
        inputs=shape("decoder.2.weight")[0],
        category_inputs={n: shape(f"embedders.{i}.0.weight")[1] for n, i in categories.items()},
        levels=heads,
        codebooks=tuple(
            (book[0], book[1])
            for book in (shape(f"codebooks.{q}") for q in range(sum(heads.values())))
        ),
        hidden_dim=hidden,
        embedding_dim=shape("embedders.0.2.weight")[0],
        decoder_hidden_dim=decoder_hidden,
        initial=_initial(shape) if any(key.startswith("initial.") for key in weights) else None,
    )


def _initial(
    shape: Callable[[str, int], torch.Size],
) -> tuple[int, tuple[int, int, int, int], int]:
    first, channels, *_ = shape("initial.stage1.0.weight", 4)
    second, third, fourth = (shape(f"initial.stage{n}.conv1.weight", 4)[0] for n in (2, 3, 4))
    return channels, (first, second, third, fourth), shape("initial.fc.weight", 2)[0]
