"""The state of a run on disk, whole or absent, with nothing in it that loading would execute.

It lies in a directory as `checkpoint.pt`, or is itself a path that ends in `.pt`. It holds what
the seeds' guide lists: model (U-AFNO and latent projector), optimizer, epoch, global step, history,
best, configuration, and the random state. The learning rate's schedule is a function of the global
step, so there is no state of it to lose.
"""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from spinlock.errors import ArtifactError
from spinlock.files import atomic_file

FORMAT = 1
NAME = "checkpoint.pt"


def place(path: Path) -> Path:
    """The file of the checkpoint that `path` names, by itself or by its directory."""
    return path if path.suffix == ".pt" else path / NAME


def write(path: Path, state: dict[str, Any]) -> None:
    """Put `state` (tensors and plain values) there, replacing what stands there."""
    # Written by torch itself, a full disk would be a RuntimeError of "unexpected pos".
    content = BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    with atomic_file(place(path)) as beside:
        beside.write_bytes(content.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """The state that `write` put there. Raises ArtifactError if it is absent or damaged."""
    path = place(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: there is no checkpoint here to resume from.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path}: damaged, or not a checkpoint: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a Spinlock checkpoint of format {FORMAT}.")
    return state
