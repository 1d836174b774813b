"""One run of `train-noa`: what it prints, in the training guides' form, and what it writes.

best_model/            the artifact of the best epoch
step_N.pt epoch_N.pt   checkpoints: see spinlock.training.retention
events/                for TensorBoard
training_history.json  every epoch's metrics
config.yaml            the resolved configuration, a recipe for `spinlock train`
init_from.json         whose weights it started from, if from any
"""

import json
import math
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer

from spinlock.cli.train import epoch_text
from spinlock.errors import ArtifactError
from spinlock.files import atomic_file, fingerprint, own_directory
from spinlock.progress import bar
from spinlock.training import outputs, retention
from spinlock.training.config import NOATraining
from spinlock.training.events import MLflow, TensorBoard
from spinlock.training.noa_task import NOATask
from spinlock.training.old_checkpoint import OldCheckpoint, restore_old
from spinlock.training.optim import schedule_factor
from spinlock.training.prepare import train_and_export
from spinlock.training.pretrained import Pretrained, start_from
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer

ORIGIN = "init_from.json"
EVENTS = "events"


class NOARun:
    """A trainer and its directory; of several processes, only the first prints and writes."""

    def __init__(
        self, wanted: NOATraining, out: Path, device: torch.device, save_every: int
    ) -> None:
        self.trainer = Trainer(wanted, device=device, on_step=self._after_update)
        self.out = out
        self.save_every = save_every
        self.first = self.trainer.world.rank == 0
        self.progress = bar("batches", width=8)
        self.progress.console.quiet = not self.first
        self.row = self.progress.add_task("training", total=self.trainer.batches)
        self.origin: dict[str, Any] = {}
        self.latest: Path | None = None
        self.events: TensorBoard | None = None

    def go_on(self, source: Path) -> None:
        """Be where the checkpoint was. Raises ArtifactError naming what differs."""
        trainer, state = self.trainer, self.trainer.state
        try:
            trainer.restore(source)
        except ArtifactError as error:
            raise ArtifactError(
                f"{error}\nTo begin a new run with its weights: --init-from {source}"
            ) from None
        state = trainer.state
        self.latest = source
        if (source.parent / ORIGIN).is_file():
            self.origin = json.loads((source.parent / ORIGIN).read_text(encoding="utf-8"))
        if self.first:
            outputs.copy_best(source.parent, own_directory(self.out, "the run"))
        rate = trainer.config.optimizer.lr * schedule_factor(
            trainer.config.optimizer,
            step=state.global_step,
            updates=trainer.batches * trainer.config.epochs,
        )
        self._say(f"Resuming from checkpoint: {source}")
        self._say("  ✓ Loaded model weights\n  ✓ Loaded optimizer state")
        self._say(f"  ✓ Schedule at step {state.global_step}, lr={rate:.2e}")
        self._say(f"  ✓ Resuming from epoch {state.epoch + 1}, step {state.global_step}")
        if state.batch:
            self._say(f"    (Will skip first {state.batch} batches of epoch {state.epoch + 1})")
        if state.best_epoch:
            self._say(f"  ✓ Best val loss so far: {state.best:.6f} ({trainer.task.selection})")
        else:
            self._say("  ✓ No validation history (first epoch incomplete)")
        if "projector" in trainer.task.modules:
            self._say("  ✓ Loaded latent projector weights")

    def go_on_from_old(self, old: OldCheckpoint) -> None:
        """The same from a checkpoint in the guides' layout, as far as it goes."""
        said = restore_old(self.trainer, old)
        self.origin = {"old_checkpoint": {"path": str(old.path), "file": fingerprint(old.path)}}
        self._say(f"Resuming from checkpoint: {old.path}")
        for line in said:
            self._say(line)

    def start_from(self, source: Pretrained) -> None:
        """Begin with other weights. Raises ArtifactError if the architecture is another."""
        self.origin = {"init_from": source.origin}
        said = start_from(self._task(), source)
        self._say(f"Starting from weights: {source.path}\n  ✓ Loaded model weights")
        for sentence in said:
            self._say(f"  ⚠ {sentence}")

    def train(self, server: MLflow | None) -> None:
        """Train to the end, writing all that the module's docstring lists."""
        if not self.first:
            for _ in self.trainer.epochs():
                pass
            return
        outputs.write_recipe(own_directory(self.out, "the run"), self.trainer.config)
        if self.origin:
            with atomic_file(self.out / ORIGIN) as path:
                path.write_text(json.dumps(self.origin, indent=1) + "\n", encoding="utf-8")
        self._describe()
        try:
            with ExitStack() as stack:
                self.events = TensorBoard(self.out / EVENTS, self.trainer)
                stack.callback(self.events.close)
                if server is not None:
                    stack.enter_context(server.run(self.out.name, self.trainer))
                stack.enter_context(self.progress)
                best = train_and_export(
                    self.trainer,
                    self.out / outputs.BEST,
                    progress=partial(self._after_epoch, server),
                    origin=self.origin,
                )
        except KeyboardInterrupt:
            self._tell_how_to_go_on()
            raise typer.Exit(130) from None
        score = self.trainer.task.selection
        print(
            f"Best: epoch {best.epoch}, {score} {best.metrics[score]:.6g}, "
            f"in {self.out / outputs.BEST}"
        )

    def _task(self) -> NOATask:
        assert isinstance(self.trainer.task, NOATask)
        return self.trainer.task

    def _say(self, text: str) -> None:
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _describe(self) -> None:
        task, trainer = self._task(), self.trainer
        self._say(
            f"{task.info.path}: {len(task.split.train)} trajectories to train on, "
            f"{len(task.split.validation)} to validate; {trainer.batches} batches an epoch."
        )
        size = sum(p.numel() for p in task.modules["uafno"].parameters())
        terms = " + ".join(f"{weight:g} L_{name}" for name, weight in task.weights.items())
        self._say(f"U-AFNO of {size:,} parameters, L = {terms}.")
        warmup, updates = trainer.config.optimizer.warmup_steps, trainer.batches
        updates *= trainer.config.epochs
        if warmup >= updates:
            self._say(
                f"⚠ Warm-up of {warmup} updates, and the run has {updates}: the rate never reaches "
                f"{trainer.config.optimizer.lr:g}. Lower --warmup-steps."
            )

    def _after_update(self, trainer: Trainer) -> None:
        state, update = trainer.state, trainer.last_update
        if not self.first or update is None or self.events is None:
            return
        rate = float(trainer.optimizer.param_groups[0]["lr"])
        self.progress.update(
            self.row,
            description=f"Epoch {state.epoch + 1}/{trainer.config.epochs} "
            f"loss={update.losses['total']:.4g} lr={rate:.2e} {update.seconds:.1f}s/b",
            completed=state.batch,
        )
        if not math.isfinite(update.gradient_norm):
            first, *more = update.nonfinite or ["the norm of the whole gradient overflows"]
            others = f" and {len(more)} more" if more else ""
            self._say(
                f"Warning: NaN/Inf gradients at batch {state.batch}, skipping update "
                f"({first}{others})"
            )
        self.events.update(update, rate, state.global_step - 1)
        if state.global_step % self.save_every == 0:
            self.events.flush()
            with _interrupts_waiting():
                self.latest = retention.save_step(trainer, self.out)

    def _after_epoch(self, server: MLflow | None, report: EpochReport, epochs: int) -> None:
        step = self.trainer.state.global_step
        assert self.events is not None
        self.events.epoch(report, step)
        if server is not None:
            server.epoch(report, step)
        with _interrupts_waiting():
            self.latest = retention.save_epoch(self.trainer, self.out)
        outputs.write_history(self.out, self.trainer.state)
        self._say(epoch_text(report, epochs))

    def _tell_how_to_go_on(self) -> None:
        how = "Nothing was saved yet."
        if self.latest is not None:
            words = ["spinlock", "train-noa", "--resume", str(self.latest)]
            if self.latest.parent != self.out:
                words += ["--checkpoint-dir", str(self.out)]
            how = f"Go on with: {shlex.join(words)}"
        print(f"Interrupted. {how}", file=sys.stderr)


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Ctrl-C takes effect after the block: what is saved in it is known to be saved."""
    asked: list[object] = []
    before = signal.signal(signal.SIGINT, lambda *got: asked.append(got))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        signal.raise_signal(signal.SIGINT)
