"""Whatever a NOA may be aligned with, by its path.

DIRECTORY      of a trained tokenizer, or of a prototype's imported by `spinlock import-vqvae`
best_model.pt  of the research prototype, read as data
FILE.py        whose `vqvae()` gives any VQ-VAE with `.encode()`; this one is run

All but the first were trained on features that are not ours: those are StandIns, to be matched.
All but the last may also be at a URI.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from spinlock import artifact
from spinlock.data import TrajectoryDataset
from spinlock.errors import ArtifactError
from spinlock.features import CleaningConfig, FeatureConfig, Standardizer, feature_names
from spinlock.location import Uri, local
from spinlock.training.features import raw_features
from spinlock.vqvae import MatchedTokenizer, Tokenizer
from spinlock.vqvae.foreign import KIND, PrototypeVQVAE, load_prototype
from spinlock.vqvae.standin import StandIn

SHOWN = 6
CHECKPOINTS = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Foreign:
    """A VQ-VAE of other features; `names` are those features', None where they are not known."""

    path: Path
    stand_in: StandIn
    names: tuple[str, ...] | None


def read_tokenizer(location: Path | Uri) -> Tokenizer | Foreign:
    """The one at `location`. Raises ArtifactError if there is none that alignment can use."""
    path = _here(location)
    if path.suffix == ".py":
        return _own(path)
    if path.is_file():
        if path.suffix not in CHECKPOINTS:
            raise ArtifactError(
                f"{path}: not a VQ-VAE. Expected the directory of a trained tokenizer, a "
                "prototype's checkpoint (.pt), or a Python file (.py) that gives one."
            )
        return _prototype(path, load_prototype(path).vqvae)
    if artifact.kind_of(path) == KIND:
        return _prototype(path, PrototypeVQVAE.load(path))
    tokenizer = Tokenizer.load(path)
    if tokenizer.frames is None:  # trained on features that a file has, as another program made
        stand_in = StandIn(tokenizer.vqvae, tokenizer.inputs)
        return Foreign(path, stand_in, tokenizer.standardizer.names)
    return tokenizer


def _here(location: Path | Uri) -> Path:
    """Its path on this node. Code is run from no store: who may write there is not known."""
    if isinstance(location, Uri) and location.name.endswith(".py"):
        raise ArtifactError(f"{location}: a Python file is run, so it is taken from a path alone.")
    return local(location)


def own_tokenizer(path: Path) -> Tokenizer:
    """The one at `path`, if it reads the features computed here; code is not run to find out.

    Raises ArtifactError, with the reason, if it reads others.
    """
    if path.suffix != ".py":
        found = read_tokenizer(path)
        if isinstance(found, Tokenizer):
            return found
    raise ArtifactError(
        f"{path}: this VQ-VAE was trained on features that are not those computed of a rollout. "
        "A NOA can be trained with it (feature_matching: pad-truncate), but by padding and "
        "truncating nothing is known of a family of features or a category. Give a tokenizer that "
        "`spinlock train-vqvae` trained on trajectories."
    )


def fingerprint(location: Path | Uri, tokenizer: Tokenizer | Foreign) -> str:
    """Of its weights, whatever they are stored in."""
    if isinstance(tokenizer, Tokenizer):
        return artifact.weights_fingerprint(local(location))
    digest = hashlib.sha256()
    for name, value in sorted(tokenizer.stand_in.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def refuse_unmatched(foreign: Foreign) -> None:
    """Raise ArtifactError naming the features of both sides."""
    ours, reads = feature_names(FeatureConfig()), foreign.stand_in.features
    theirs = "their names are not known" if foreign.names is None else _shown(foreign.names)
    raise ArtifactError(
        f"{foreign.path}: this VQ-VAE reads {reads} features ({theirs}); those computed of a "
        f"rollout are {len(ours)} others ({_shown(ours)}). Train a tokenizer on this data, or set "
        "feature_matching (--feature-matching) to pad-truncate: ours in their order, padded with "
        "zeros or truncated to its width, as the alignment guide does."
    )


def match(
    foreign: Foreign, dataset: TrajectoryDataset, items: Sequence[int], frames: int
) -> MatchedTokenizer:
    """`foreign` behind our features, standardized over the ground truth of `items`."""
    config = FeatureConfig()
    raw = raw_features(dataset, items, config, frames)
    standardizer = Standardizer.fit(raw.values, raw.names, CleaningConfig())
    return MatchedTokenizer(foreign.stand_in, config, standardizer)


def _shown(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _prototype(path: Path, vqvae: PrototypeVQVAE) -> Foreign:
    config = vqvae.config
    names = config.feature_names
    if names is not None and config.initial is not None:
        made = tuple(f"initial CNN {i}" for i in range(config.initial.outputs))
        names = (*names[: config.initial.manual], *made, *names[config.initial.manual :])
    return Foreign(path, StandIn(vqvae, config.inputs), names)


def _own(path: Path) -> Foreign:
    """What the function `vqvae` of a Python file gives; its attribute `features` is its width."""
    spec = importlib.util.spec_from_file_location(f"_vqvae_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ArtifactError(f"{path}: there is no such Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build = getattr(module, "vqvae", None)
    if not callable(build):
        raise ArtifactError(f"{path}: it has no function vqvae() that gives a VQ-VAE.")
    made = build()
    width = getattr(made, "features", None)
    if not isinstance(made, nn.Module) or not isinstance(width, int):
        raise ArtifactError(
            f"{path}: vqvae() gives a {type(made).__name__}; expected a torch module with an "
            "attribute `features`, the number of standardized features that it reads."
        )
    names = getattr(made, "feature_names", None)
    return Foreign(path, StandIn(made, width), None if names is None else tuple(names))
