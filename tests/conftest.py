"""Shape checking for every test, and where the real files are.

The import hook makes the shapes in spinlock's signatures true at every call a test makes.
"""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("spinlock", "beartype.beartype")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Numbers are compared exactly, which one thread guarantees."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real files beside the checkout; skips where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real files at {REAL_DATA}")
    return REAL_DATA
