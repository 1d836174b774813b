"""Tokens on disk: one HDF5 file with everything that is needed to read, decode and judge them.

    /                       attrs: format "spinlock-tokens", schema_version, dataset (its path when
                            encoded), dataset_fingerprint, windows, provenance (JSON text)
    /tokens                 [N, Q]  i4   codes, category-major. attr names [Q]
    /samples                [N, 3]  i4   operator, realization, window. attr columns [3]
    /codebooks              [Q, 3]  i4   category, level, number of codes
    /categories             [G]     text
    /features/names         [D]     text the decoded columns
    /features/category      [D]     i4
    /tokenizer/<file>       [n]     u1   the bytes of the tokenizer's artifact directory

N samples, Q codebooks, G categories, D standardized features.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spinlock import artifact
from spinlock.data import open_dataset
from spinlock.data.hdf5 import array, attribute, child, naming, open_hdf5, text, texts
from spinlock.errors import ArtifactError, DatasetError
from spinlock.evaluation import blocks
from spinlock.evaluation.names import category_names, codebook_names
from spinlock.evaluation.source import standardized_features
from spinlock.features import Standardizer
from spinlock.files import atomic_file
from spinlock.vqvae import Tokenizer

FORMAT, SCHEMA_VERSION = "spinlock-tokens", 1


@dataclass(frozen=True)
class Decoded:
    """What tokens say of each sample's features: standardized, and in the features' own units."""

    names: tuple[str, ...]
    standardized: Float[Tensor, "N D"]
    raw: Float[Tensor, "N D"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of all of a dataset's trajectories, with the tokenizer that made them."""

    codes: Int[Tensor, "N Q"]
    samples: Int[Tensor, "N 3"]
    """Operator, realization and window of each row, in this order."""
    windows: int
    """Of each trajectory."""
    tokenizer: Tokenizer
    trained: dict[str, Any]
    """The provenance of the tokenizer's artifact."""
    dataset: str
    """Where the dataset was when it was encoded."""
    fingerprint: str
    """Of the dataset's content."""

    def decode(self) -> Decoded:
        """The features that the tokens stand for: bit for bit the model's own reconstruction."""
        standardized = blocks.decode(self.tokenizer.vqvae, self.codes)
        standardizer = self.tokenizer.standardizer
        return Decoded(standardizer.names, standardized, in_units(standardizer, standardized))

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """The tokens in file `path`; needs neither the dataset nor the tokenizer's directory.

        Raises DatasetError when it is absent, damaged or no file of tokens.
        """
        with open_hdf5(path) as file, naming(path, "tokens"):
            if text(file.attrs.get("format", "")) != FORMAT:
                raise DatasetError(
                    f"{path}: not a file of tokens; expected what `spinlock encode-to-tokens` "
                    "writes."
                )
            version = attribute(file, "schema_version", path)
            if version != SCHEMA_VERSION:
                raise DatasetError(
                    f"{path}: written in schema version {version} of tokens; this version of "
                    f"Spinlock reads {SCHEMA_VERSION}. Encode the dataset again."
                )
            tokenizer, trained = _embedded(file, path)
            codes = torch.from_numpy(array(file, "tokens", "NQ", path)[:].astype(np.int64))
            samples = torch.from_numpy(array(file, "samples", "N3", path)[:].astype(np.int64))
            windows = attribute(file, "windows", path)
            (dataset,) = texts(file, "dataset", path)
            (fingerprint,) = texts(file, "dataset_fingerprint", path)
        sizes = torch.tensor(tokenizer.vqvae.bank.sizes)
        if codes.shape[1] != len(sizes) or not ((codes >= 0) & (codes < sizes)).all():
            raise DatasetError(f"{path}: its tokens do not fit its codebooks. Encode again.")
        return cls(codes, samples, windows, tokenizer, trained, dataset, fingerprint)


def encode_dataset(
    dataset: Path,
    model: Path,
    path: Path,
    *,
    windows: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tokens:
    """Write the tokens of every trajectory of the HDF5 file `dataset` to `path`, a new file.

    `model` is a tokenizer's artifact directory. `progress` is told how many trajectories of how
    many have their features. Raises SpinlockError when the two do not fit together.
    """
    if path.exists():
        raise DatasetError(
            f"{path}: exists already and is not overwritten. Delete it, or choose another name."
        )
    tokenizer = Tokenizer.load(model)
    opened = open_dataset(dataset)
    info = opened.info
    features = standardized_features(
        tokenizer, opened, range(info.items), windows=windows, progress=progress
    )
    codes = blocks.encode(tokenizer.vqvae, features)
    samples = np.indices((info.operators, info.realizations, windows)).reshape(3, -1).T
    with atomic_file(path) as beside, h5py.File(beside, "w") as file:
        file.attrs["format"], file.attrs["schema_version"] = FORMAT, SCHEMA_VERSION
        file.attrs["dataset"] = str(dataset)
        file.attrs["dataset_fingerprint"] = info.fingerprint
        file.attrs["windows"] = windows
        file.attrs["provenance"] = json.dumps(artifact.provenance(), indent=1)
        file.create_dataset("tokens", data=codes.numpy().astype("<i4"))
        file["tokens"].attrs["names"] = list(codebook_names(tokenizer))
        file.create_dataset("samples", data=samples.astype("<i4"))
        file["samples"].attrs["columns"] = ["operator", "realization", "window"]
        _describe(file, tokenizer)
        for name in artifact.FILES:
            content = np.frombuffer((model / name).read_bytes(), dtype=np.uint8)
            file.create_dataset(f"tokenizer/{name}", data=content)
    return Tokens.load(path)


def in_units(
    standardizer: Standardizer, standardized: Float[Tensor, "N D"]
) -> Float[Tensor, "N D"]:
    """The inverse of `standardizer` on the columns that it keeps, the tails unsqueezed."""
    squeezed = standardized * standardizer.std + standardizer.mean
    inside = torch.minimum(torch.maximum(squeezed, standardizer.low), standardizer.high)
    excess = (squeezed - inside) / standardizer.spread
    return inside + standardizer.spread * excess.sign() * torch.expm1(excess.abs())


def _describe(file: h5py.File, tokenizer: Tokenizer) -> None:
    """What other programs need to read the tokens."""
    groups, levels = tokenizer.categories.groups, tokenizer.vqvae.layout.num_levels
    books = [
        (book // levels, book % levels, size)
        for book, size in enumerate(tokenizer.vqvae.bank.sizes)
    ]
    file.create_dataset("codebooks", data=np.array(books, dtype="<i4"))
    file["codebooks"].attrs["columns"] = ["category", "level", "codes"]
    words = h5py.string_dtype()
    file.create_dataset("categories", data=list(category_names(tokenizer)), dtype=words)
    names = tokenizer.standardizer.names
    file.create_dataset("features/names", data=list(names), dtype=words)
    category = np.empty(len(names), dtype="<i4")
    for number, group in enumerate(groups):
        category[list(group)] = number
    file.create_dataset("features/category", data=category)


def _embedded(tokens: h5py.File, path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer whose files the file holds, and what is known of its training."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file in artifact.FILES:
            (place / file).write_bytes(child(tokens, f"tokenizer/{file}", path)[:].tobytes())
        try:
            trained = artifact.load(place, "vqvae").provenance
            return Tokenizer.load(place), trained
        except ArtifactError as error:
            said = str(error).replace(f"{place}/", "").replace(str(place), "the tokenizer")
            raise DatasetError(f"{path}: its tokenizer cannot be used: {said}") from None
