"""Which of a run's checkpoints are kept: the newest two steps' and the newest epoch's.

    <directory>/step_<updates>.pt   every so many updates
    <directory>/epoch_<epochs>.pt   after every epoch that validates

Two of a kind are never missing at once: an older one goes only after a newer one is whole.
"""

import re
from pathlib import Path

from spinlock.training.trainer import Trainer

KEPT = {"step": 2, "epoch": 1}
_NAME = re.compile(r"(step|epoch)_\d+\.pt")


def save_step(trainer: Trainer, directory: Path) -> Path:
    """Save the run in the middle of an epoch; where it was put."""
    return _save(trainer, directory, "step", trainer.state.global_step)


def save_epoch(trainer: Trainer, directory: Path) -> Path:
    """Save the run after an epoch; where it was put."""
    return _save(trainer, directory, "epoch", trainer.state.epoch)


def newest(directory: Path) -> Path | None:
    """The checkpoint in `directory` that was written last; None if there is none."""
    return max(_written(directory, "step") + _written(directory, "epoch"), key=_age, default=None)


def _save(trainer: Trainer, directory: Path, kind: str, number: int) -> Path:
    path = directory / f"{kind}_{number}.pt"
    trainer.save(path)
    for old in sorted(_written(directory, kind), key=_age)[: -KEPT[kind]]:
        old.unlink()
    return path


def _written(directory: Path, kind: str) -> list[Path]:
    found = [(path, _NAME.fullmatch(path.name)) for path in directory.glob("*.pt")]
    return [path for path, match in found if match is not None and match[1] == kind]


def _age(path: Path) -> tuple[int, str]:
    """By the time of writing, since a run may go on from an older checkpoint than its newest."""
    return path.stat().st_mtime_ns, path.name
