"""Tokens on disk: exact after a round trip, self-contained, and no matter in which batch."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, generate
from spinlock.errors import ArtifactError, DatasetError, SpinlockError
from spinlock.evaluation import blocks
from spinlock.evaluation.source import standardized_features
from spinlock.evaluation.tokens import Tokens, encode_dataset, in_units
from spinlock.features import CleaningConfig, Standardizer, extract
from spinlock.vqvae import Tokenizer


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three realizations each of six operators, like `tiny_data`, but with more frames."""
    path = tmp_path_factory.mktemp("repeated") / "repeated.h5"
    domain = {
        "kind": "cno",
        "dt": 0.1,
        "realizations": 3,
        "num_layers": {"kind": "integer", "low": 2, "high": 2},
        "base_channels": {"kind": "integer", "low": 4, "high": 8},
    }
    document = {"operators": 6, "seed": 4, "grid": 16, "frames": 12, "domain": domain}
    generate(GenerateConfig.model_validate(document), path)
    return path


@pytest.fixture(scope="module")
def encoded(repeated: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.h5"
    encode_dataset(repeated, tiny_tokenizer, path)
    return path


def features(tokenizer: Tokenizer, path: Path) -> Tensor:
    dataset = open_dataset(path)
    return standardized_features(tokenizer, dataset, range(len(dataset)))


def test_decoding_gives_the_models_own_reconstruction_bit_for_bit(
    encoded: Path, repeated: Path
) -> None:
    tokens = Tokens.load(encoded)
    standardized = features(tokens.tokenizer, repeated)
    own = blocks.reconstruct(tokens.tokenizer.vqvae, standardized)
    decoded = tokens.decode()
    assert decoded.standardized.shape == standardized.shape == (18, len(decoded.names))
    assert torch.equal(decoded.standardized, own)


def test_the_features_are_those_of_the_tokenizers_training(encoded: Path, repeated: Path) -> None:
    tokenizer = Tokens.load(encoded).tokenizer
    trajectories = open_dataset(repeated).trajectories(range(18), slice(tokenizer.frames))
    raw = extract(trajectories, tokenizer.feature_config)
    assert torch.equal(features(tokenizer, repeated), tokenizer.standardizer(raw))
    assert torch.equal(Tokens.load(encoded).codes, tokenizer.align(raw).codes)


def test_windows_are_samples_of_their_own(
    repeated: Path, tiny_tokenizer: Path, encoded: Path, tmp_path: Path
) -> None:
    tokens = encode_dataset(repeated, tiny_tokenizer, tmp_path / "tokens.h5", windows=2)
    assert tokens.samples.tolist() == [
        [o, r, w] for o in range(6) for r in range(3) for w in range(2)
    ]
    frames = tokens.tokenizer.frames
    first, last = (
        tokens.tokenizer(
            open_dataset(repeated).trajectories(range(18), slice(start, start + frames))
        )
        for start in (0, 12 - frames)
    )
    assert torch.equal(tokens.codes[0::2], first.codes)
    assert torch.equal(tokens.codes[1::2], last.codes)
    assert torch.equal(tokens.codes[0::2], Tokens.load(encoded).codes)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(0, 599), min_size=1, max_size=300),
    threads=st.sampled_from([1, 2]),
)
def test_a_samples_tokens_and_reconstruction_do_not_depend_on_its_batch(
    rows: list[int], threads: int, tiny_tokenizer: Path
) -> None:
    torch.set_num_threads(threads)
    model = Tokenizer.load(tiny_tokenizer).vqvae
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(600, model.layout.features, generator=generator)
    codes, whole = blocks.encode(model, items), blocks.reconstruct(model, items)
    assert torch.equal(blocks.encode(model, items[rows]), codes[rows])
    assert torch.equal(blocks.decode(model, codes[rows]), whole[rows])


def test_a_file_of_tokens_needs_neither_dataset_nor_tokenizer(
    repeated: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    dataset = shutil.copy(repeated, tmp_path / "data.h5")
    model = shutil.copytree(tiny_tokenizer, tmp_path / "model")
    made = encode_dataset(Path(dataset), Path(model), tmp_path / "tokens.h5")
    (tmp_path / "data.h5").unlink()
    shutil.rmtree(tmp_path / "model")
    loaded = Tokens.load(tmp_path / "tokens.h5")
    assert torch.equal(loaded.codes, made.codes)
    assert torch.equal(loaded.decode().raw, made.decode().raw)
    assert loaded.fingerprint == open_dataset(repeated).info.fingerprint
    assert loaded.trained["training"]["task"] == "vqvae"


def test_other_programs_find_samples_codebooks_and_names_in_the_file(encoded: Path) -> None:
    tokenizer = Tokens.load(encoded).tokenizer
    with h5py.File(encoded) as file:
        assert file["samples"][:].tolist() == [[o, r, 0] for o in range(6) for r in range(3)]
        books = file["codebooks"][:]
        assert (file["tokens"][:] < books[:, 2]).all()
        assert books[:, 0].tolist() == [g for g in range(len(file["categories"])) for _ in range(3)]
        assert list(file["tokens"].attrs["names"][:2]) == [
            "category_0/level_0",
            "category_0/level_1",
        ]
        names = file["features/names"].asstr()[:]
        assert tuple(names) == tokenizer.standardizer.names
        for number, group in enumerate(tokenizer.categories.groups):
            assert (np.flatnonzero(file["features/category"][:] == number) == sorted(group)).all()
        assert json.loads(file.attrs["provenance"])["versions"]["torch"] == torch.__version__


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_raw_units_come_back_also_from_the_squeezed_tails(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(50, 6, generator=generator) * torch.logspace(-3, 3, 6)
    names = [f"family.kind.f{i}" for i in range(6)]
    standardizer = Standardizer.fit(raw, names, CleaningConfig(tail=1.0))
    other = raw * data.draw(st.floats(0.1, 30.0))
    back = in_units(standardizer, standardizer(other))
    kept = other[:, standardizer.kept]
    # A tail is a logarithm: its rounding comes back as a share of the excess.
    assert ((back - kept).abs() <= 1e-4 * (kept.abs() + standardizer.spread)).all()


def test_an_existing_file_is_not_overwritten(
    repeated: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    dataset = Path(shutil.copy(repeated, tmp_path / "data.h5"))
    before = dataset.read_bytes()
    with pytest.raises(DatasetError, match="exists already and is not overwritten"):
        encode_dataset(dataset, tiny_tokenizer, dataset)
    assert dataset.read_bytes() == before


def test_trajectories_that_the_tokenizer_does_not_know_are_refused(
    tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with h5py.File(tiny_data) as file:
        document = json.loads(file["metadata/config"].asstr()[()])
    for change, message in (
        ({"frames": 8}, "it holds trajectories of 8 frames; the tokenizer reads 9 frames"),
        ({"grid": 20}, r"grid: \(16, 16\) expected, \(20, 20\) found"),
    ):
        other = tmp_path / f"{next(iter(change))}.h5"
        generate(GenerateConfig.model_validate({**document, "operators": 2, **change}), other)
        with pytest.raises(SpinlockError, match=message):
            encode_dataset(other, tiny_tokenizer, tmp_path / "tokens.h5")
    assert not [*tmp_path.glob("*tokens*")]


def test_features_without_a_value_are_named(tiny_data: Path, tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    tokenizer.standardizer.mean[2] = torch.nan  # as an undefined stored feature comes out
    with pytest.raises(DatasetError, match=r"1 features .* undefined") as raised:
        standardized_features(tokenizer, open_dataset(tiny_data), [0, 1])
    assert tokenizer.standardizer.names[2] in str(raised.value)


def test_something_else_is_not_taken_for_tokens(tiny_data: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(DatasetError, match="not a file of tokens"):
        Tokens.load(tiny_data)
    with pytest.raises(DatasetError, match="there is no such file"):
        Tokens.load(tiny_data.parent / "none.h5")
    with pytest.raises(ArtifactError, match="not a Spinlock artifact"):
        encode_dataset(tiny_data, tiny_data.parent, tiny_data.parent / "tokens.h5")


def spoil_version(file: h5py.File) -> None:
    file.attrs["schema_version"] = 9


def spoil_code(file: h5py.File) -> None:
    file["tokens"][0, 0] = 10_000


def spoil_weights(file: h5py.File) -> None:
    content = file["tokenizer/weights.safetensors"][:]
    del file["tokenizer/weights.safetensors"]
    file["tokenizer/weights.safetensors"] = content[:100]


def spoil_config(file: h5py.File) -> None:
    del file["tokenizer/artifact.json"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_version, "schema version 9 of tokens; this version of Spinlock reads 1"),
        (spoil_code, "its tokens do not fit its codebooks"),
        (spoil_weights, "its tokenizer cannot be used: weights.safetensors: missing or damaged"),
        (spoil_config, "'tokenizer/artifact.json' is missing"),
    ],
)
def test_damage_is_told_by_name(encoded: Path, tmp_path: Path, spoil, message: str) -> None:
    path = Path(shutil.copy(encoded, tmp_path / "tokens.h5"))
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(DatasetError, match=message) as raised:
        Tokens.load(path)
    assert str(raised.value).startswith(str(path))
