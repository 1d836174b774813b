"""`spinlock train-noa`: one NOA, by the flags of the training guides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spinlock.cli.noa_run import EVENTS, NOARun
from spinlock.cli.root import Overrides, app
from spinlock.errors import ArtifactError, ConfigError, SpinlockError
from spinlock.files import refuse_foreign
from spinlock.training import checkpoint, outputs, pretrained, retention
from spinlock.training.events import MLflow
from spinlock.training.noa_recipe import ENABLE, KEYS, MODE, default, noa_training
from spinlock.training.old_checkpoint import OldCheckpoint, read_old
from spinlock.training.parallel import launched

CHECKPOINTS = Path("checkpoints/noa")
OFF = "not there"


def _flag(name: str, told: str, otherwise: str | None = None) -> Any:
    return typer.Option(help=told, show_default=otherwise or str(default(name)))


@app.command("train-noa")
def train_noa(
    dataset: Annotated[str | None, typer.Option(metavar="PATH|URI", help="Data file.")] = None,
    n_samples: Annotated[
        int | None, _flag("n_samples", "Use the first so many operators.", "all")
    ] = None,
    epochs: Annotated[int | None, _flag("epochs", "Passes over the training samples.")] = None,
    batch_size: Annotated[int | None, _flag("batch_size", "Samples per update.")] = None,
    lr: Annotated[float | None, _flag("lr", "Peak learning rate.")] = None,
    bptt_window: Annotated[
        int | None,
        _flag("bptt_window", "Last steps, with gradient.", "32, or all of a shorter rollout"),
    ] = None,
    timesteps: Annotated[int | None, _flag("timesteps", "Steps of a rollout.")] = None,
    n_realizations: Annotated[
        int | None,
        _flag("n_realizations", "Use the first so many of each operator's, each a sample.", "all"),
    ] = None,
    vqvae_path: Annotated[
        str | None,
        typer.Option(metavar="PATH|URI", help="A trained VQ-VAE; none: states alone."),
    ] = None,
    feature_matching: Annotated[
        Literal["exact", "pad-truncate"] | None,
        _flag("feature_matching", "For a VQ-VAE that was trained on other features."),
    ] = None,
    lambda_traj: Annotated[float | None, _flag("lambda_traj", "Weight of L_traj.")] = None,
    lambda_commit: Annotated[
        float | None,
        _flag("lambda_commit", "Weight of L_commit.", f"{default('lambda_commit')} with a VQ-VAE"),
    ] = None,
    enable_latent_loss: Annotated[
        bool, typer.Option("--enable-latent-loss", help="Train with L_latent.")
    ] = False,
    lambda_latent: Annotated[float | None, _flag("lambda_latent", "Weight of L_latent.")] = None,
    latent_sample_steps: Annotated[
        int | None,
        _flag("latent_sample_steps", "States that L_latent looks at; -1: all of the window."),
    ] = None,
    loss_mode: Annotated[
        Literal["state", "mse_led", "vq_led"] | None,
        typer.Option(help="What leads: sets the weights not given.", show_default="mse_led"),
    ] = None,
    lambda_ic: Annotated[
        float | None, _flag("lambda_ic", "Weight of L_ic: no jump at the first step.", OFF)
    ] = None,
    lambda_recon: Annotated[
        float | None,
        _flag("lambda_recon", "Weight of L_recon: what the VQ-VAE loses of the rollout.", OFF),
    ] = None,
    lambda_tokens: Annotated[
        float | None,
        _flag("lambda_tokens", "Weight of L_tokens: divergence of soft token assignments.", OFF),
    ] = None,
    lambda_project: Annotated[
        float | None,
        _flag("lambda_project", "Weight of L_project: a learned projection of features.", OFF),
    ] = None,
    lambda_augment: Annotated[
        float | None,
        _flag("lambda_augment", "Weight of L_augment: features decoded from drawn tokens.", OFF),
    ] = None,
    lr_schedule: Annotated[
        Literal["cosine", "constant"] | None, _flag("lr_schedule", "After the warm-up.")
    ] = None,
    warmup_steps: Annotated[
        int | None, _flag("warmup_steps", "Updates from a tenth of the rate up to it.")
    ] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            help="What the run writes.", show_default=f"{CHECKPOINTS}, or that of --resume"
        ),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between step checkpoints.")] = 200,
    early_stop_patience: Annotated[
        int | None, _flag("early_stop_patience", "Epochs without a better val/traj.")
    ] = None,
    base_channels: Annotated[int | None, _flag("base_channels", "Width of the U-AFNO.")] = None,
    encoder_levels: Annotated[int | None, _flag("encoder_levels", "Halvings of the grid.")] = None,
    modes: Annotated[int | None, _flag("modes", "Fourier modes kept per direction.")] = None,
    afno_blocks: Annotated[int | None, _flag("afno_blocks", "Blocks in Fourier space.")] = None,
    seed: Annotated[int | None, _flag("seed", "Of weights, split and order.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on from this checkpoint, or from the newest of a directory."),
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from the weights of this artifact or checkpoint.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="Log to this MLflow store too: http://.. or sqlite:///FILE.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train a NOA on states, or aligned with a VQ-VAE; the best epoch is kept as best_model."""
    given = {
        name: value
        for name, value in locals().items()
        if (name in KEYS or name in (ENABLE, MODE)) and value is not None and value is not False
    }
    if resume is not None and init_from is not None:
        raise ConfigError("--resume and --init-from: a run goes on or starts anew. Give one.")
    if dataset is None and resume is None:
        raise ConfigError("--dataset FILE is missing: the trajectories to imitate.")
    server = None if mlflow is None else MLflow(mlflow)
    source = None if resume is None else _checkpoint(resume)
    begun = None if source is None else _begun(source)
    if isinstance(begun, OldCheckpoint):
        _train_from_old(begun, given, checkpoint_dir, overrides or (), save_every, server)
        return
    weights = None if init_from is None else pretrained.read(init_from)
    wanted = noa_training(
        given,
        overrides=overrides or (),
        begun=begun,
        model=None if weights is None else weights.model,
    )
    out = checkpoint_dir or (CHECKPOINTS if source is None else source.parent)
    _refuse_occupied(out, source)
    with launched() as device:
        run = NOARun(wanted, out, device, save_every)
        if source is not None:
            run.go_on(source)
        if weights is not None:
            run.start_from(weights)
        run.train(server)


def _checkpoint(given: Path) -> Path:
    """The file of the checkpoint to go on from."""
    if given.is_dir():
        inside = retention.newest(given) or checkpoint.place(given)
        if inside.is_file():
            return inside
    elif given.is_file():
        return given
    raise ArtifactError(
        f"{given}: there is no checkpoint here to resume from. A run's checkpoints are "
        "step_N.pt and epoch_N.pt in its --checkpoint-dir. A trained model alone starts a new "
        "run, by --init-from."
    )


def _begun(source: Path) -> dict[str, Any] | OldCheckpoint:
    """The configuration in a checkpoint, or all of one in the guides' layout."""
    try:
        config: dict[str, Any] = checkpoint.read(source)["config"]
    except ArtifactError:
        old = read_old(source)
        if old is None:
            raise
        return old
    return config


def _train_from_old(
    old: OldCheckpoint,
    given: dict[str, Any],
    out: Path | None,
    overrides: Sequence[str],
    save_every: int,
    server: MLflow | None,
) -> None:
    """Go on in a directory of the run's own: the old one's files are not ours to replace."""
    if out is None or out.resolve() == old.path.parent.resolve():
        raise ConfigError(
            f"--resume {old.path}: it is of the old checkpoint format, and its directory stays as "
            "it is. Give a new --checkpoint-dir."
        )
    _refuse_occupied(out, None)
    given = {**old.flags(), **given}
    if "dataset" not in given:
        raise ConfigError("--dataset FILE is missing: the checkpoint does not name one.")
    wanted = noa_training(given, overrides=overrides, model=old.sizes)
    with launched() as device:
        run = NOARun(wanted, out, device, save_every)
        run.go_on_from_old(old)
        run.train(server)


def _refuse_occupied(out: Path, source: Path | None) -> None:
    """A directory takes one run: another's checkpoints would be taken for its own."""
    if source is not None and source.parent.resolve() == out.resolve():
        return
    if retention.newest(out) is not None or (out / outputs.BEST).exists():
        raise SpinlockError(
            f"{out}: a run is here already. Go on with it by --resume {out}, or give another "
            "--checkpoint-dir."
        )
    refuse_foreign(out, "a NOA's training", {EVENTS})
