"""One training run from the command line."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from spinlock import config
from spinlock.cli.root import Overrides, app
from spinlock.errors import SpinlockError
from spinlock.files import own_directory
from spinlock.progress import bar
from spinlock.training.checkpoint import place
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML of a training run (task: noa or vqvae).")],
    out: Annotated[Path, typer.Option("--out", help="Directory for artifact and checkpoint.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/checkpoint.")] = False,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Save every so many updates, not only each epoch.")
    ] = None,
) -> None:
    """Train one configuration; the best epoch is kept as an artifact in OUT/best."""
    document, lines = config.read(recipe)
    wanted = training_config(document, where=str(recipe), lines=lines, overrides=overrides or ())
    saved = place(own_directory(out, "artifact and checkpoint") / "checkpoint")
    if saved.exists() and not resume:
        raise SpinlockError(
            f"{out}: a run is here already. Go on with it by --resume, or give another --out."
        )
    try:
        with bar("batches") as progress:
            task = progress.add_task("epoch 1", total=None)

            def step(trainer: Trainer) -> None:
                progress.update(
                    task,
                    description=f"epoch {trainer.state.epoch + 1}/{wanted.epochs}",
                    completed=trainer.state.batch,
                    total=trainer.batches,
                )
                if save_every is not None and trainer.state.global_step % save_every == 0:
                    trainer.save(saved)

            trainer = Trainer(wanted, on_step=step)
            if resume:
                trainer.restore(saved)

            def after(report: EpochReport, epochs: int) -> None:
                trainer.save(saved)
                progress.console.print(epoch_text(report, epochs), highlight=False)

            best = train_and_export(trainer, out / "best", progress=after)
    except KeyboardInterrupt:
        how = f"Go on with: {again('--resume')}" if saved.exists() else "Nothing was saved yet."
        print(f"Interrupted. {how}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(
        f"Best: epoch {best.epoch}, {trainer.task.selection} "
        f"{best.metrics[trainer.task.selection]:.6g}, in {out / 'best'}"
    )


def again(*flag: str) -> str:
    """The command line that goes on with an interrupted run: this one with `flag`, once."""
    words = sys.argv[1:]
    if flag[0] in words:
        return shlex.join(["spinlock", *words])
    return shlex.join(["spinlock", *words, *flag])


def epoch_text(report: EpochReport, epochs: int) -> str:
    """An epoch as the seeds' guide prints it."""

    def line(prefix: str) -> str:
        return " ".join(
            f"{name.removeprefix(prefix)}={value:.6g}"
            for name, value in report.metrics.items()
            if name.startswith(prefix)
        )

    text = f"Epoch {report.epoch}/{epochs}\n  Train: {line('train/')} "
    text += f"[{report.metrics['seconds']:.1f}s]\n  Val:   {line('val/')}"
    if report.metrics["skipped_updates"]:
        names = ", ".join(f"{name} ({count})" for name, count in report.nonfinite.items())
        text += f"\n  Skipped updates: {report.metrics['skipped_updates']:.0f}, by {names}"
    return text if report.stop is None else f"{text}\n  Stopped: {report.stop.sentence}"
