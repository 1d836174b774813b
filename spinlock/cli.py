"""`spinlock ...`: thin commands, and how every command of the project answers a user's mistake."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spinlock import config
from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig
from spinlock.data.generate import Progress as Made
from spinlock.data.generate import generate as generate_dataset
from spinlock.errors import SpinlockError
from spinlock.files import own_directory
from spinlock.progress import bar
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Neural Operator Agents: data, training, search.",
)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE over the file; may be repeated.")
]


def run(command: Callable[[], object]) -> None:
    """Run a command line; a user's mistake is one message on stderr and exit code 2."""
    try:
        command()
    except SpinlockError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """The `spinlock` entry point."""
    run(app)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="The HDF5 file to write; must not exist.")],
    recipe: Annotated[
        Path, typer.Option("--config", help="YAML: operators, seed, grid, frames, domain.")
    ],
    overrides: Overrides = None,
) -> None:
    """Make a dataset of ground-truth trajectories. Interrupted, the same command goes on."""
    wanted = config.load(GenerateConfig, recipe, overrides or ())
    with bar("operators") as progress:
        task = progress.add_task(out.name, total=wanted.operators)

        def show(made: Made) -> None:
            progress.update(task, completed=made.done)

        generate_dataset(wanted, out, progress=show)
    describe(out)


@app.command()
def check(path: Annotated[Path, typer.Argument(help="An HDF5 file of any known layout.")]) -> None:
    """Read a whole data file: what is in it, and whether every number is finite."""
    describe(path)
    print(open_dataset(path).verify())


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
    checkpoint = own_directory(out, "artifact and checkpoint") / "checkpoint"
    if checkpoint.exists() and not resume:
        raise SpinlockError(
            f"{out}: a run is here already. Go on with it by --resume, or give another --out."
        )
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
                trainer.save(checkpoint)

        trainer = Trainer(wanted, on_step=step)
        if resume:
            trainer.restore(checkpoint)

        def after(report: EpochReport, epochs: int) -> None:
            trainer.save(checkpoint)
            progress.console.print(epoch_text(report, epochs), highlight=False)

        try:
            best = train_and_export(trainer, out / "best", progress=after)
        except KeyboardInterrupt:
            print(f"Interrupted. Go on with: {_again()}", file=sys.stderr)
            raise typer.Exit(130) from None
    print(
        f"Best: epoch {best.epoch}, {trainer.task.selection} "
        f"{best.metrics[trainer.task.selection]:.6g}, in {out / 'best'}"
    )


def _again() -> str:
    """The command line that goes on with an interrupted run."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["spinlock", *words, "--resume"])


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


def describe(path: Path) -> None:
    """Print what a data file holds."""
    info = open_dataset(path).info
    table = Table(show_header=False, box=None, title=str(path), title_justify="left")
    for key, value in {
        "layout": info.layout,
        "domain": info.domain,
        "operators x realizations": f"{info.operators} x {info.realizations}",
        "frames": info.frames or "none stored",
        "channels": ", ".join(info.channel_names),
        "grid": f"{info.height} x {info.width}",
        "parameters": ", ".join(info.parameter_names) or "none",
        "features": ", ".join(info.features) or "none stored",
        "fingerprint": info.fingerprint,
    }.items():
        table.add_row(key, str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
