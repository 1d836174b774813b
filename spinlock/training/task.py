"""What differs between training the NOA and training the VQ-VAE; the loop is one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinlock.errors import ArtifactError
from spinlock.training.batches import Split
from spinlock.training.parallel import World


class Task(ABC):
    """Modules to train, the terms of their loss with weights, and how they are judged.

    `facts` are fingerprints of the files that it stands on. `modules` holds every trained
    module, all of it in the optimizer. `weights` are the loss weights by term; a search may vary
    them, so `validate` must give metrics that do not depend on them, and `selection` names the
    one that a single run is judged by (lower is better).
    """

    facts: dict[str, str]
    modules: nn.ModuleDict
    weights: dict[str, float]
    split: Split
    selection: str

    @abstractmethod
    def terms(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Every term's mean over `items`; those with weight carry gradient."""

    def scores(self, items: Sequence[int]) -> dict[str, Tensor]:
        """What `validate` averages: the terms, free of any setting that a search may vary."""
        return self.terms(items)

    @abstractmethod
    def export(self, path: Path, metrics: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write the trained modules as an artifact."""

    def validate(self, world: World, micro_batch: int) -> dict[str, float]:
        """Metrics `val/<term>` over the validation items, the same whatever the micro-batch."""
        mine = world.share(self.split.validation)
        sums = dict.fromkeys(self.weights, 0.0)
        self.modules.eval()
        with torch.no_grad():
            for first in range(0, len(mine), micro_batch):
                part = mine[first : first + micro_batch]
                for name, value in self.scores(part).items():
                    sums[name] += float(value) * len(part)
        totals = world.total(list(sums.values()))
        count = len(self.split.validation)
        return {f"val/{name}": total / count for name, total in zip(sums, totals, strict=True)}

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first update of each epoch, and when a run goes on in its middle.

        What a task draws anew in each epoch is a function of this number.
        """

    def after_update(self) -> None:
        """Called once after each optimizer step: moving averages belong here."""

    def discard(self) -> None:
        """Called when a batch's gradients are thrown away: forget what its forwards recorded."""


def same_facts(then: Mapping[str, str], now: Mapping[str, str], *, where: str) -> None:
    """Raise ArtifactError unless a run's files are those that it was trained with."""
    changed = [
        f"  {name}: {then.get(name)} then, {now.get(name)} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise ArtifactError(
            f"{where}: it was trained with other files:\n"
            + "\n".join(changed)
            + "\nGive those that it was trained with; they may lie elsewhere."
        )
