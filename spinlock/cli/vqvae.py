"""`spinlock train-vqvae`: the tokenizer alone, by a recipe in the documents' keys."""

import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spinlock import config
from spinlock.cli.root import Overrides, app
from spinlock.cli.train import again, epoch_text
from spinlock.data import open_dataset
from spinlock.errors import ConfigError, SpinlockError
from spinlock.files import own_directory, refuse_foreign
from spinlock.progress import bar
from spinlock.training import checkpoint, outputs
from spinlock.training.prepare import train_and_export
from spinlock.training.recipe import VQVAERecipe
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer
from spinlock.training.vqvae_task import VQVAETask

SHIPPED = ("production.json", "quick.yaml")
PURPOSE = "a tokenizer's training"


@app.command("train-vqvae")
def train_vqvae(
    recipe: Annotated[
        str, typer.Option("--config", help="JSON or YAML file, or: production, quick.")
    ],
    input_: Annotated[Path | None, typer.Option("--input", help="Data file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Directory to write.")] = None,
    resume_from: Annotated[
        Path | None, typer.Option(help="The output directory (or best_model) of a run.")
    ] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate; train nothing.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Every key, dropped feature and epoch.")
    ] = False,
) -> None:
    """Train a VQ-VAE tokenizer; the best epoch is kept in OUTPUT/best_model."""
    given = {
        "input": input_,
        "output": output,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    wanted = _read(recipe, {k: v for k, v in given.items() if v is not None}, overrides or [])
    _check_places(wanted.output, resume_from)
    console = Console(highlight=False)
    if verbose or dry_run:
        console.print(config.as_yaml(wanted.model_dump(mode="json")), markup=False)
    if dry_run:
        _plan(console, wanted, resume_from, verbose)
        return
    _run(console, wanted, resume_from, verbose)


def _read(recipe: str, given: dict[str, Any], overrides: list[str]) -> VQVAERecipe:
    shipped = {name.partition(".")[0]: name for name in SHIPPED}
    if recipe in shipped and not Path(recipe).is_file():
        place = resources.files("spinlock.training") / "recipes" / shipped[recipe]
        with resources.as_file(place) as path:
            document, lines = config.read(path)
    elif not Path(recipe).suffix and not Path(recipe).exists():
        raise ConfigError(
            f"{recipe}: neither a file nor a shipped recipe. {config.nearest(recipe, [*shipped])}"
        )
    else:
        document, lines = config.read(Path(recipe))
    missing = [key for key in ("input", "output") if key not in document and key not in given]
    if missing and not any(change.startswith(f"{missing[0]}=") for change in overrides):
        raise ConfigError(
            f"{recipe}: {missing[0]}: it is not in the file. Add it, or give --{missing[0]}."
        )
    return config.parse(
        VQVAERecipe,
        config.replace(document, given),
        where=recipe,
        lines=lines,
        overrides=overrides,
    )


def _check_places(out: Path, resume_from: Path | None) -> None:
    """Before minutes of features: a run takes a directory of its own, or goes on in it."""
    if resume_from is not None:
        run = outputs.run_of(resume_from)
        if not _saved(run).is_file():
            raise SpinlockError(
                f"{resume_from}: no run to resume: {_saved(run)} is missing. Give the directory "
                "that was the --output of a run."
            )
        if run.resolve() == out.resolve():
            return
    if _saved(out).exists():
        raise SpinlockError(
            f"{out}: a run is here already. Go on with it by --resume-from {out}, or give "
            "another --output."
        )
    refuse_foreign(out, PURPOSE)


def _saved(run: Path) -> Path:
    return checkpoint.place(run / outputs.CHECKPOINT)


def _plan(console: Console, wanted: VQVAERecipe, resume_from: Path | None, verbose: bool) -> None:
    """Everything short of training: data, features, categories and the model's sizes."""
    trainer = _trainer(wanted, resume_from)
    _describe(console, trainer, verbose)
    console.print(
        f"{trainer.batches * wanted.epochs} updates in {wanted.epochs} epochs"
        + (f", of which {trainer.state.epoch} are done." if resume_from is not None else ".")
    )


def _trainer(wanted: VQVAERecipe, resume_from: Path | None) -> Trainer:
    trainer = Trainer(wanted.training())
    if resume_from is not None:
        trainer.restore(outputs.run_of(resume_from) / outputs.CHECKPOINT)
    return trainer


def _run(console: Console, wanted: VQVAERecipe, resume_from: Path | None, verbose: bool) -> None:
    out = wanted.output
    trainer = _trainer(wanted, resume_from)
    own_directory(out, PURPOSE)
    if resume_from is not None:
        outputs.copy_best(outputs.run_of(resume_from), out)
    _save(trainer, out)  # a run that has ended already has no epoch to be saved after
    outputs.write_recipe(out, wanted)
    _describe(console, trainer, verbose)
    try:
        with bar("epochs") as progress:
            row = progress.add_task("training", total=wanted.epochs, completed=trainer.state.epoch)

            def after(report: EpochReport, total: int) -> None:
                _save(trainer, out)
                progress.update(row, completed=report.epoch, description=_short(report))
                if verbose or report.stop is not None:
                    progress.console.print(epoch_text(report, total), highlight=False)

            best = train_and_export(trainer, out / outputs.BEST, progress=after)
    except KeyboardInterrupt:
        print(f"Interrupted. Go on with: {again('--resume-from', str(out))}", file=sys.stderr)
        raise typer.Exit(130) from None
    metrics = outputs.write_results(out, _task(trainer), best)
    console.print(_results(metrics))
    console.print(f"Best: epoch {best.epoch}, in {out / outputs.BEST}", soft_wrap=True)


def _save(trainer: Trainer, out: Path) -> None:
    trainer.save(out / outputs.CHECKPOINT)
    outputs.write_history(out, trainer.state)


def _task(trainer: Trainer) -> VQVAETask:
    assert isinstance(trainer.task, VQVAETask)
    return trainer.task


def _describe(console: Console, trainer: Trainer, verbose: bool) -> None:
    task = _task(trainer)
    info = open_dataset(task.config.data.path).info
    console.print(
        f"{info.path}: {len(task.split.train)} trajectories to train on, "
        f"{len(task.split.validation)} to validate. {len(task.standardizer.names)} features in "
        f"use, {len(task.standardizer.report)} dropped.",
        soft_wrap=True,
    )
    console.print(task.categories.summary(), soft_wrap=True)
    if verbose:
        for column in task.standardizer.report:
            console.print(f"  dropped {column.name}: {column.reason}", soft_wrap=True)
    layout = task.vqvae.layout
    console.print(
        f"{len(layout.codebooks)} codebooks, {sum(b.num_tokens for b in layout.codebooks)} codes, "
        f"{layout.latent_dim} latent entries, "
        f"{sum(p.numel() for p in task.vqvae.parameters()):,} parameters."
    )
    interval = task.config.model.dead_code_reset_interval
    updates = trainer.batches * trainer.config.epochs
    if interval > updates:
        console.print(
            f"⚠ Dead codes are never reset: dead_code_reset_interval is {interval}, and the run "
            f"has {updates} updates.",
            soft_wrap=True,
        )


def _short(report: EpochReport) -> str:
    shown = ("quality/reconstruction_quality", "quality/utilization", "quality/topography")
    parts = [
        f"{name.rpartition('/')[2].partition('_')[0]} {report.metrics[name]:.3f}"
        for name in shown
        if name in report.metrics
    ]
    return " ".join(parts) or "training"


def _results(metrics: dict[str, Any]) -> Table:
    table = Table("metric", "reached", "target", "", box=None)
    for name, row in metrics["targets"].items():
        verdict = "met" if row["met"] else "missed"
        table.add_row(name.replace("_", " "), f"{row['reached']:.3f}", row["target"], verdict)
    return table
