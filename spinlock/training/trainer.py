"""One loop for every task: yields a report after each epoch, and can stop and go on anywhere.

Who drives it (a script, a Ray Train worker, a test) decides what to do with a report. The same
seed gives the same numbers on one thread, also through a checkpoint in the middle of an epoch:
the order of the data is a function of (seed, epoch), and everything else that changes is state.
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from spinlock.config import dotted
from spinlock.errors import ArtifactError, OutOfMemoryError
from spinlock.training import checkpoint, gradients, optim
from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.footprint import Probe
from spinlock.training.memory import is_out_of_memory, peak_bytes, release, reset_peak
from spinlock.training.parallel import World
from spinlock.training.probe import probe
from spinlock.training.state import EpochReport, RunState, Stop, UpdateReport
from spinlock.training.task import Task, same_facts
from spinlock.training.tasks import build_task


class _DoesNotFitError(Exception):
    """Memory ran out with a single sample; the message is the allocator's."""


class Trainer:
    """Trains the task that `config` describes on `device` (CUDA when there is one).

    `on_step(trainer)` is called after every update, for a progress bar or a step checkpoint.
    Raises what a user can mend as SpinlockError: files that do not fit the configuration, and
    OutOfMemoryError when the modules alone do not fit.
    """

    def __init__(
        self,
        config: NOATraining | VQVAETraining,
        *,
        device: torch.device | None = None,
        world: World | None = None,
        on_step: Callable[["Trainer"], None] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.world = world or World.current(self.device)
        self.on_step = on_step
        try:
            self.task: Task = build_task(config, self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"the model does not fit into memory: {_first(error)}") from None
        self.batches = math.ceil(len(self.task.split.train) / config.batch_size)
        self.optimizer = optim.build(config.optimizer, self.task.modules)
        self.state = RunState(micro_batch=config.micro_batch or config.batch_size)
        self.last_update: UpdateReport | None = None

    @property
    def last_report(self) -> EpochReport | None:
        """The report of the last finished epoch, also of a run just restored."""
        return self.state.last_report

    def epochs(self) -> Generator[EpochReport, None, None]:
        """Train the remaining epochs, yielding after each that validates; a stop ends it early.

        Validated is every `val_every_n_epochs`-th epoch, and the last.
        """
        if self.last_report is not None and self.last_report.stop is not None:
            return
        while self.state.epoch < self.config.epochs:
            report = self._epoch()
            if report.stop is not None or self._validates(report.epoch):
                yield report
            if report.stop is not None:
                return

    def probe(self, sizes: Sequence[int], limit: float = math.inf) -> list[Probe]:
        """What updates with micro-batches of these sizes take, within so many bytes.

        Only before the run begins.
        """
        if self.state.global_step:
            raise ValueError("a run that has begun cannot be probed: its optimizer has a state")
        return probe(self.task, self.optimizer, self.device, sizes, limit)

    def limit_micro_batch(self, most: int) -> int:
        """Go on with micro-batches of at most so many samples; the size that all ranks agree on."""
        self.state.micro_batch = self.world.least(min(self.state.micro_batch, most))
        return self.state.micro_batch

    def _validates(self, epoch: int) -> bool:
        return epoch % self.config.val_every_n_epochs == 0 or epoch == self.config.epochs

    def _epoch(self) -> EpochReport:
        reset_peak(self.device)
        started, before = time.perf_counter(), self.state.seconds
        order = self._order(self.state.epoch)
        self.task.begin_epoch(self.state.epoch)
        stop, scores = None, dict[str, float]()
        try:
            while self.state.batch < self.batches and stop is None:
                first = self.state.batch * self.config.batch_size
                stop = self._update(order[first : first + self.config.batch_size])
                self.state.seconds = before + time.perf_counter() - started
                if self.on_step is not None:
                    self.on_step(self)
            if stop is None and self._validates(self.state.epoch + 1):
                scores = self._validate()
                stop = self._judge(scores)
        except _DoesNotFitError as error:
            stop = Stop("memory", f"a single sample does not fit into memory: {error}")
        metrics = self._training_metrics() | scores
        metrics["seconds"] = before + time.perf_counter() - started
        metrics["peak_memory_bytes"] = float(peak_bytes(self.device))
        return self._finish(metrics, stop)

    def _order(self, epoch: int) -> list[int]:
        random = np.random.default_rng([self.config.seed, epoch, 0x0DE2])
        order: list[int] = random.permutation(self.task.split.train).tolist()
        return order

    def _update(self, items: list[int]) -> Stop | None:
        """One optimizer step on the effective batch; a non-finite gradient is skipped, counted."""
        state, started = self.state, time.perf_counter()
        losses, culprits = self._gradients(items), list[str]()
        norm = gradients.clip(self.task.modules.parameters(), self.config.optimizer.clip_norm)
        if math.isfinite(norm):
            optim.set_learning_rate(
                self.optimizer,
                self.config.optimizer,
                step=state.global_step,
                updates=self.batches * self.config.epochs,
            )
            self._step()
            state.consecutive = 0
            state.norm_sum += norm
            for name, value in losses.items():
                state.sums[name] = state.sums.get(name, 0.0) + value * len(items)
            state.samples += len(items)
        else:
            state.skipped += 1
            state.consecutive += 1
            culprits = gradients.nonfinite_parameters(self.task.modules)
            for name in culprits:
                state.nonfinite[name] = state.nonfinite.get(name, 0) + 1
            self.task.discard()
        self.optimizer.zero_grad()
        state.batch += 1
        state.global_step += 1
        seconds = time.perf_counter() - started
        self.last_update = UpdateReport(losses, norm, seconds, tuple(culprits))
        reason = self.config.nonfinite.check_updates(
            skipped=state.skipped, tried=state.batch, consecutive=state.consecutive
        )
        if reason is None and state.skipped == self.batches:
            reason = f"all {state.skipped} updates of epoch {state.epoch + 1} were skipped"
        return None if reason is None else Stop("nonfinite", f"{reason} ({self._blame()})")

    def _step(self) -> None:
        """Move the weights. The first step allocates the optimizer's own state."""
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.world.size > 1:
                raise
            raise _DoesNotFitError(f"the optimizer's state: {_first(error)}") from None
        self.task.after_update()

    def _validate(self) -> dict[str, float]:
        """The task's scores, with the micro-batch halved until it fits."""
        while True:
            try:
                return self.task.validate(self.world, self.state.micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.world.size > 1:
                    raise
                told = _first(error)
            if self.state.micro_batch == 1:
                raise _DoesNotFitError(told)
            release(self.device)
            self.state.micro_batch //= 2

    def _gradients(self, items: list[int]) -> dict[str, float]:
        """Accumulate the batch's gradient, halving the micro-batch until it fits."""
        while True:
            losses = self._accumulate(items)
            short = self.world.total([float(isinstance(losses, str))])[0]
            if not isinstance(losses, str) and not short:
                break
            self.optimizer.zero_grad()
            self.task.discard()
            release(self.device)
            if self.state.micro_batch == 1:
                raise _DoesNotFitError(losses if isinstance(losses, str) else "on another rank")
            self.state.micro_batch = max(1, self.state.micro_batch // 2)
        self.world.sum_gradients(self.task.modules.parameters())
        return dict(zip(losses, self.world.total(list(losses.values())), strict=True))

    def _accumulate(self, items: list[int]) -> dict[str, float] | str:
        """Sum this rank's weighted gradients; its losses, or what was said if memory ran out."""
        self.task.modules.train()
        losses: dict[str, float] = dict.fromkeys(["total", *self.task.weights], 0.0)
        mine = self.world.share(items)
        try:
            for first in range(0, len(mine), self.state.micro_batch):
                part = mine[first : first + self.state.micro_batch]
                terms = self.task.terms(part)
                total = sum(
                    weight * terms[name] for name, weight in self.task.weights.items() if weight
                )
                if not isinstance(total, torch.Tensor):
                    raise ValueError("every loss term has weight 0: there is nothing to train")
                share = len(part) / len(items)
                (share * total).backward()
                for name, value in {"total": total, **terms}.items():
                    losses[name] = losses.get(name, 0.0) + share * float(value.detach())
                del terms, total, value  # their graph, or it is held while the next is built
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _first(error)
        return losses

    def _training_metrics(self) -> dict[str, float]:
        state = self.state
        updates = state.batch - state.skipped
        means = {
            f"train/{name}": state.sums[name] / state.samples if state.samples else math.nan
            for name in (state.sums or dict.fromkeys(["total", *self.task.weights]))
        }
        return means | {
            "gradient_norm": state.norm_sum / updates if updates else math.nan,
            "updates": float(updates),
            "skipped_updates": float(state.skipped),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "micro_batch": float(min(state.micro_batch, self.config.batch_size)),
        }

    def _judge(self, metrics: dict[str, float]) -> Stop | None:
        """Non-finite validation ends a run at once; so does patience without improvement."""
        state, epoch, name = self.state, self.state.epoch + 1, self.task.selection
        value = metrics[name]
        if not math.isfinite(value):
            return Stop("nonfinite", f"{name} is {value} after epoch {epoch}")
        least = self.config.early_stopping_min_delta
        if value < state.milestone - least or not state.milestone_epoch:
            state.milestone, state.milestone_epoch = value, epoch
        if value < state.best:
            state.best, state.best_epoch = value, epoch
        patience = self.config.early_stopping_patience
        if patience is None or epoch - state.milestone_epoch < patience:
            return None
        by = f" by more than {least:g}" if least else ""
        return Stop(
            "early_stopping",
            f"{name} has not improved{by} for {patience} epochs "
            f"(best {state.best:.4g} at epoch {state.best_epoch})",
        )

    def _finish(self, metrics: dict[str, float], stop: Stop | None) -> EpochReport:
        state = self.state
        told = stop is not None or self._validates(state.epoch + 1)
        state.epoch += 1
        report = EpochReport(state.epoch, metrics, stop, state.nonfinite)
        state.history.append(asdict(report))
        state.nonfinite = {}
        state.batch = state.samples = state.skipped = 0
        state.sums, state.norm_sum = {}, 0.0
        state.seconds = 0.0 if told else metrics["seconds"]  # a report's are those since the last
        return report

    def _blame(self) -> str:
        worst = sorted(self.state.nonfinite.items(), key=lambda pair: -pair[1])
        names = ", ".join(name for name, _ in worst[:3])
        more = f" and {len(worst) - 3} more parameters" if len(worst) > 3 else ""
        if not names:  # each is finite, and only their squares' sum is not
            return "the norm of the whole gradient overflows"
        return f"most often in {names}{more}"

    def save(self, directory: Path) -> None:
        """Write everything needed to go on exactly from here, in one step.

        `directory` may also be the checkpoint's own path, ending in .pt; so in `restore`.
        """
        random = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.write(
            directory,
            {
                "config": self.config.model_dump(mode="json"),
                "facts": self.task.facts,
                "model": self.task.modules.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "run": asdict(self.state),
                "random": random,
            },
        )

    def restore(self, directory: Path) -> None:
        """Go on from a checkpoint of the same configuration.

        More epochs than it was saved with are allowed, as are another micro-batch and another
        place of the same data and tokenizer. Raises ArtifactError naming what differs.
        """
        saved = checkpoint.read(directory)
        same_facts(saved["facts"], self.task.facts, where=str(directory))
        now = dotted(self.config.model_dump(mode="json"))
        then = _completed(saved["config"], type(self.config))
        differing = [
            f"{key}: {then.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key) and key not in _MAY_DIFFER
        ]
        if differing:
            raise ArtifactError(
                f"{directory}: the checkpoint is of another configuration:\n  "
                + "\n  ".join(differing)
                + "\nResume with the same one, or start a new run."
            )
        self.task.modules.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = RunState(**saved["run"])
        if self.config.micro_batch is not None:
            self.state.micro_batch = self.config.micro_batch
        torch.set_rng_state(saved["random"]["torch"])
        if self.device.type == "cuda" and "cuda" in saved["random"]:
            torch.cuda.set_rng_state(saved["random"]["cuda"], self.device)


def _completed(
    saved: dict[str, Any], model: type[NOATraining] | type[VQVAETraining]
) -> dict[str, Any]:
    """A checkpoint's configuration by dotted path. A key younger than it has its default: that is
    what the run did. One that `model` does not accept is left as it is, to be told key by key.
    """
    try:
        return dotted(model.model_validate(saved).model_dump(mode="json"))
    except ValidationError:
        return dotted(saved)


_MAY_DIFFER = frozenset({"epochs", "micro_batch", "data.path", "tokenizer"})


def _first(error: Exception) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
