"""Checkpoints as torch and the research prototype write them, and as nobody should."""

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spinlock.vqvae.foreign import PrototypeVQVAE, read_checkpoint

Content = dict[str, Any]
Change = Callable[[Content], object]
Rewrite = Callable[[Change], Path]


def archive(path: Path, pickled: bytes, members: dict[str, bytes] | None = None) -> Path:
    """A file as torch.save writes it, with any pickle and any storages in it."""
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a/data.pkl", pickled)
        opened.writestr("a/byteorder", "little")
        for name, content in (members or {}).items():
            opened.writestr(name, content)
    return path


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def tensor(
    *,
    count: int = 4,
    offset: int = 0,
    size: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    key: str = "0",
    kind: str = "FloatStorage",
) -> bytes:
    """The program of {"t": a tensor}."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    reference = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key)
    reference += text("cpu") + number(count) + b"tQ"
    rest = number(offset) + size + stride + b"\x89}t"
    return (
        b"}" + text("t") + b"ctorch._utils\n_rebuild_tensor_v2\n" + b"(" + reference + rest + b"Rs."
    )


SIXTEEN = {"a/data/0": np.arange(4.0, dtype=np.float32).tobytes()}


# The prototype's


def content_of(directory: Path) -> Content:
    """The real checkpoint's content, less what takes long to save and is not read."""
    content = read_checkpoint(directory / "best_model.pt")
    del content["optimizer_state_dict"], content["encoder_state_dicts"]
    return content


def outputs_of(directory: Path) -> dict[str, Tensor]:
    """What the prototype's own code computed."""
    with np.load(directory / "vqvae_parity.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def rewriter(original: Content, directory: Path) -> Rewrite:
    """Saves the content with something changed, by torch, in `directory`."""

    def rewrite(change: Change) -> Path:
        content = copy.deepcopy(original)
        change(content)
        return saved(directory / "best_model.pt", content)

    return rewrite


def assert_parity(vqvae: PrototypeVQVAE, record: dict[str, Tensor]) -> None:
    features = record["features"]
    latents = vqvae.encode(features)
    quantized = vqvae.quantize(latents)
    reconstruction = vqvae.decode(quantized.vectors)
    assert torch.equal(quantized.codes, record["tokens"])
    for found, name in (
        (torch.cat(latents, 1), "latents"),
        (torch.cat(quantized.vectors, 1), "quantized"),
        (reconstruction, "reconstruction"),
    ):
        torch.testing.assert_close(found, record[name], rtol=0, atol=1e-5)
    assert float((reconstruction - features).square().mean()) == pytest.approx(1.4422, abs=5e-5)


def without(*paths: str) -> Callable[[Content], None]:
    """Less these keys, written with dots."""

    def change(content: Content) -> None:
        for path in paths:
            *parents, last = path.split(".")
            section = content
            for parent in parents:
                section = section[parent]
            del section[last]

    return change


def setting(path: str, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *parents, last = path.split(".")
        section: Any = content
        for parent in parents:
            section = section[int(parent) if parent.isdigit() else parent]
        section[last] = value

    return change
