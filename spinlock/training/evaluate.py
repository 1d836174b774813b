"""A trained artifact judged again, from what is on disk alone."""

from pathlib import Path

import torch

from spinlock import artifact
from spinlock.config import replace
from spinlock.errors import ArtifactError
from spinlock.training.config import training_config
from spinlock.training.parallel import World
from spinlock.training.task import same_facts
from spinlock.training.tasks import build_task
from spinlock.training.vqvae_task import VQVAETask


def evaluate(
    path: Path,
    kind: str = "noa",
    *,
    data: Path | None = None,
    tokenizer: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Validation metrics of the artifact at `path`, on the validation items of its training.

    `data` and `tokenizer` say where those are now, if they have moved. Raises SpinlockError
    when they are missing or do not fit the weights.
    """
    found = artifact.load(path, kind)
    moved = {"data.path": data, "tokenizer": tokenizer}
    trained = replace(
        found.provenance["training"], {key: str(value) for key, value in moved.items() if value}
    )
    if "features_cache" in trained:  # from the data itself, and nothing is written
        trained["features_cache"] = None
    config = training_config(trained, where=str(path))
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = build_task(config, device)
    same_facts(found.provenance["facts"], task.facts, where=str(path))
    try:
        task.modules.load_state_dict(
            {k: v for k, v in found.weights.items() if k.partition(".")[0] in task.modules}
        )
    except RuntimeError as error:
        raise ArtifactError(f"{path}: its weights do not fit data and tokenizer: {error}") from None
    if isinstance(task, VQVAETask):
        _same_statistics(task, found)
    return task.validate(World(), config.micro_batch or config.batch_size)


def _same_statistics(task: VQVAETask, found: artifact.Artifact) -> None:
    """The task has fitted the standardizer anew; what the artifact would apply must be that."""
    for name, fitted in task.standardizer.state_dict().items():
        stored = found.weights.get(f"standardizer.{name}")
        if stored is None or stored.shape != fitted.shape or not torch.allclose(stored, fitted):
            raise ArtifactError(
                f"{found.path}: its standardizer.{name} is not that of its training data."
            )
