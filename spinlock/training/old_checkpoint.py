"""Checkpoints in the layout of the training guides, from before and after they could be resumed.

    model_state_dict, optimizer_state_dict, scheduler_state_dict, epoch, global_step,
    history {train_loss, val_loss}, best_val_loss, config {the four sizes}, args, alignment_state

Only the first is always there. What is missing is inferred where it can be, and told in the
guides' words. The file is read as data: nothing in it is run, see `spinlock.vqvae.foreign`.

Weights must be those of this U-AFNO. The research prototype's own network is another one (instance
normalization, circular padding, half of the wavenumbers), which no training here continues; and the
files that it was trained on hold no trajectories.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spinlock.errors import ArtifactError
from spinlock.training.noa_recipe import KEYS, NEEDS_TOKENIZER
from spinlock.training.optim import schedule_factor
from spinlock.training.state import EpochReport, RunState
from spinlock.training.trainer import Trainer
from spinlock.vqvae.foreign import read_checkpoint

SIZES = ("base_channels", "encoder_levels", "modes", "afno_blocks")
_ALIGNMENT = {"vqvae_path", *NEEDS_TOKENIZER}


@dataclass(frozen=True)
class OldCheckpoint:
    """What the file holds, as plain data."""

    path: Path
    content: dict[str, Any]

    @property
    def sizes(self) -> dict[str, Any]:
        """Those of the four sizes that it tells."""
        told = {**self._section("args"), **self._section("config")}
        return {key: told[key] for key in SIZES if told.get(key) is not None}

    @property
    def mode(self) -> str | None:
        """The loss mode that it was trained by, if it tells; that is said anew, too."""
        told = self._section("args").get("loss_mode")
        return None if told is None else str(told)

    def flags(self) -> dict[str, Any]:
        """The arguments that it was trained with, less those of alignment, which are said anew."""
        args = self._section("args")
        wanted = KEYS.keys() - _ALIGNMENT
        return {k: v for k, v in args.items() if k in wanted and v is not None}

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self.content.get(name)
        return section if isinstance(section, Mapping) else {}


def read_old(path: Path) -> OldCheckpoint | None:
    """The checkpoint at `path` if it is in the guides' layout, else None.

    Raises ArtifactError when it cannot be read, or holds anything that such files do not.
    """
    content = read_checkpoint(path)
    weights = content.get("model_state_dict")
    if not isinstance(weights, Mapping):
        return None
    return OldCheckpoint(path, content)


def restore_old(trainer: Trainer, old: OldCheckpoint) -> list[str]:
    """Put the trainer where the checkpoint was; what to tell, in the guides' words.

    Raises ArtifactError naming what differs, when its sizes or weights are others.
    """
    _same_sizes(trainer, old)
    _load_weights(trainer, old)
    said = ["  ✓ Loaded model weights"]
    said.append(_load_optimizer(trainer, old))
    if old.mode not in (None, "mse_led"):
        said.append(f"  ⚠ It was trained by --loss-mode {old.mode}, which is not taken over")
    step, inferred = _position(trainer, old)
    epoch, batch = divmod(step, trainer.batches)
    history = old.content.get("history")
    losses = history.get("train_loss", []) if isinstance(history, Mapping) else []
    reports = [
        EpochReport(e + 1, {"train/total": float(losses[e])} if e < len(losses) else {})
        for e in range(epoch)
    ]
    trainer.state = RunState(
        epoch=epoch,
        batch=batch,
        global_step=step,
        micro_batch=trainer.state.micro_batch,
        history=[asdict(report) for report in reports],
    )
    said += _told_of_schedule(trainer, old, inferred)
    said.append(f"  ✓ Resuming from epoch {epoch + 1}, step {step}")
    if batch:
        said.append(f"    (Will skip first {batch} batches of epoch {epoch + 1})")
    best = old.content.get("best_val_loss")
    if isinstance(best, float) and epoch:
        said.append(
            f"  ⚠ Best val loss there: {best:.6f}, of the weighted total. This run selects by "
            f"{trainer.task.selection}, and its best begins anew"
        )
    else:
        said.append("  ✓ No validation history (first epoch incomplete)")
    return said + _load_projector(trainer, old)


def _same_sizes(trainer: Trainer, old: OldCheckpoint) -> None:
    here = trainer.config.model.model_dump()
    differing = [
        f"model.{key}: {there} there, {here[key]} here"
        for key, there in old.sizes.items()
        if there != here[key]
    ]
    if differing:
        raise ArtifactError(
            f"{old.path}: the checkpoint is of another architecture:\n  "
            + "\n  ".join(differing)
            + "\nResume with the same one, or start a new run."
        )


def _load_weights(trainer: Trainer, old: OldCheckpoint) -> None:
    module = trainer.task.modules["uafno"]
    here = module.state_dict()
    there = {str(k).removeprefix("uafno."): v for k, v in old.content["model_state_dict"].items()}
    if _shapes(there) != _shapes(here):
        unknown = [*(there.keys() - here.keys())]
        other = [n for n in here if n in there and _shapes(there)[n] != _shapes(here)[n]]
        other += sorted(unknown) or sorted(here.keys() - there.keys())
        raise ArtifactError(
            f"{old.path}: its network is not this U-AFNO: {len(there)} tensors there, {len(here)} "
            f"here, {len(there.keys() & here.keys())} of them with the same name; the first that "
            f"differs is '{other[0]}'. A checkpoint of the research prototype's own network cannot "
            "be trained on here."
        )
    module.load_state_dict(there)


def _load_optimizer(trainer: Trainer, old: OldCheckpoint) -> str:
    """The moments of the network's parameters; the projector was never in that optimizer."""
    saved = old.content.get("optimizer_state_dict")
    if not isinstance(saved, Mapping):
        return "  ⚠ Old checkpoint has no optimizer state: AdamW's moments begin at zero"
    parameters = [*trainer.task.modules["uafno"].parameters()]
    state = saved["state"]
    fits = all(
        index < len(parameters) and entry["exp_avg"].shape == parameters[index].shape
        for index, entry in state.items()
    )
    if not fits:
        raise ArtifactError(f"{old.path}: its optimizer's state does not fit its network.")
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return "  ✓ Loaded optimizer state"


def _position(trainer: Trainer, old: OldCheckpoint) -> tuple[int, str | None]:
    """Updates done, and how that was found out if the file does not say."""
    if "global_step" in old.content:
        return int(old.content["global_step"]), None
    named = re.fullmatch(r"(step|epoch)_(\d+)", old.path.stem)
    if named is None:
        raise ArtifactError(
            f"{old.path}: it does not say how many updates were done (global_step). If you know, "
            "name the file step_N.pt or epoch_N.pt."
        )
    return int(named[2]) * (trainer.batches if named[1] == "epoch" else 1), "filename"


def _told_of_schedule(trainer: Trainer, old: OldCheckpoint, inferred: str | None) -> list[str]:
    step = trainer.state.global_step
    updates = trainer.batches * trainer.config.epochs
    config = trainer.config.optimizer
    rate = config.lr * schedule_factor(config, step=step, updates=updates)
    said = []
    if inferred is not None:
        said.append(
            f"  ⚠ Old checkpoint format detected - inferred global_step={step} from {inferred}"
        )
    saved = old.content.get("scheduler_state_dict")
    if not isinstance(saved, Mapping):
        return [
            *said,
            f"  ⚠ Syncing scheduler to step {step}...",
            f"  ✓ Scheduler synced to step {step}, lr={rate:.2e}",
        ]
    there = saved.get("_last_lr", [rate])[0]
    if abs(there - rate) > 1e-3 * max(there, rate):
        said.append(f"  ⚠ Its schedule was at lr={there:.2e}: it had other settings than this run")
    return [*said, f"  ✓ Schedule at step {step}, lr={rate:.2e}"]


def _load_projector(trainer: Trainer, old: OldCheckpoint) -> list[str]:
    if "projector" not in trainer.task.modules or not trainer.task.weights["latent"]:
        return []
    module = trainer.task.modules["projector"]
    saved = old.content.get("alignment_state")
    if isinstance(saved, Mapping) and _shapes(saved) == _shapes(module.state_dict()):
        module.load_state_dict(dict(saved))
        return ["  ✓ Loaded latent projector weights"]
    lacks = "projector weights" if saved is None else "a projector of this form"
    return [
        f"  ⚠⚠ WARNING: Old checkpoint has no {lacks}!",
        "      Projector will restart from random initialization.",
        "      L_latent training will be inconsistent with pre-crash training.",
        "      Recommend: Either disable --enable-latent-loss or train from scratch.",
    ]


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in weights.items()}
