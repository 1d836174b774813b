"""Shape checking for every test, and where the real files are.

The import hook makes the shapes in spinlock's signatures true at every call a test makes.
Numbers are compared exactly, so a GPU is hidden, whose sums take any order: test_gpu.py alone is
for it, and says how.
"""

import os
from pathlib import Path
from typing import Any

if not os.environ.get("SPINLOCK_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from jaxtyping import install_import_hook

with install_import_hook("spinlock", "beartype.beartype"):
    from spinlock.data.generate import GenerateConfig, generate
    from spinlock.training.config import training_config
    from spinlock.training.prepare import train_and_export
    from spinlock.training.trainer import Trainer

install_import_hook("spinlock", "beartype.beartype")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Numbers are compared exactly, which one thread guarantees."""
    torch.set_num_threads(1)


@pytest.fixture
def nodes_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts nodes of Ray has them on loopback, with workers that find the tests."""
    from ray._private import ray_constants  # two seconds, for a few tests

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # was read at the import
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real files beside the checkout; skips where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real files at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve CNO operators, 8 steps on 16 x 16: enough to train on in a second."""
    path = tmp_path_factory.mktemp("data") / "tiny.h5"
    config = GenerateConfig.model_validate(
        {
            "operators": 12,
            "seed": 3,
            "grid": 16,
            "frames": 9,
            "domain": {
                "kind": "cno",
                "dt": 0.1,
                "num_layers": {"kind": "integer", "low": 2, "high": 2},
                "base_channels": {"kind": "integer", "low": 4, "high": 8},
            },
        }
    )
    generate(config, path)
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQ-VAE trained for a moment on `tiny_data`."""
    path = tmp_path_factory.mktemp("vqvae") / "tokenizer"
    config = training_config(
        {
            "task": "vqvae",
            "data": {"path": str(tiny_data)},
            "frames": 9,
            "epochs": 3,
            "model": {"hidden_dim": 16, "embedding_dim": 16},
        },
        where="tiny_tokenizer",
    )
    train_and_export(Trainer(config), path)
    return path


@pytest.fixture
def noa_run(tiny_data: Path, tiny_tokenizer: Path) -> dict[str, Any]:
    """A training of a NOA on both, whose activations are what memory goes to."""
    return {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "tokenizer": str(tiny_tokenizer),
        "model": {"base_channels": 32, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
        "rollout": {"timesteps": 8},
        "batch_size": 8,
        "epochs": 2,
    }
