"""The NOA's training in the flags of the project's training guides.

A thin face over `NOATraining`: KEYS says which key each flag is, GUIDE where the guides' tables
recommend something else than that key's default. Everything else is decided where it stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spinlock.config import dotted, parse, replace
from spinlock.errors import ConfigError
from spinlock.training.config import NOALoss, NOATraining

KEYS: dict[str, str] = {
    "dataset": "data.path",
    "n_samples": "data.operators",
    "n_realizations": "data.realizations",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "optimizer.lr",
    "lr_schedule": "optimizer.schedule",
    "warmup_steps": "optimizer.warmup_steps",
    "timesteps": "rollout.timesteps",
    "bptt_window": "rollout.bptt_window",
    "vqvae_path": "tokenizer",
    "feature_matching": "feature_matching",
    "lambda_traj": "loss.lambda_traj",
    "lambda_commit": "loss.lambda_commit",
    "lambda_latent": "loss.lambda_latent",
    "latent_sample_steps": "loss.latent_sample_steps",
    "lambda_ic": "loss.lambda_ic",
    "lambda_recon": "loss.lambda_recon",
    "lambda_tokens": "loss.lambda_tokens",
    "lambda_project": "loss.lambda_project",
    "lambda_augment": "loss.lambda_augment",
    "early_stop_patience": "early_stopping_patience",
    "base_channels": "model.base_channels",
    "encoder_levels": "model.encoder_levels",
    "modes": "model.modes",
    "afno_blocks": "model.afno_blocks",
    "seed": "seed",
}
ENABLE = "enable_latent_loss"
"""The flag that is no key: without it `loss.lambda_latent` is 0."""

MODE = "loss_mode"
"""The other one: it sets weights that are not given."""
MODES: dict[str, dict[str, float]] = {
    "state": {"loss.lambda_commit": 0.0, "loss.lambda_latent": 0.0},
    "mse_led": {},
    "vq_led": {"loss.lambda_recon": 1.0, "loss.lambda_traj": 0.3},
}
"""What leads: the states alone; the states, beside the tokenizer's terms; or the tokenizer's
reconstruction, with the states as its regularizer (weights of the prototype's `vq_led`)."""

GUIDE: dict[str, Any] = {
    "rollout.timesteps": 256,
    "optimizer.warmup_steps": 500,
    "early_stopping_patience": 2,
}
WINDOW = 32
"""The guides' window, wherever a rollout is longer than it."""

_LATENT = ("lambda_latent", "latent_sample_steps")
NEEDS_TOKENIZER = (
    *("feature_matching", "lambda_commit", ENABLE, *_LATENT),
    *("lambda_recon", "lambda_tokens", "lambda_project", "lambda_augment"),
)
"""The flags that are refused without a tokenizer."""


def noa_training(
    given: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    begun: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> NOATraining:
    """The training that these flags describe; `given` holds those that were given.

    A run that goes on has what it was `begun` with (a checkpoint's configuration) wherever
    nothing is given, and one that starts from another's weights has its `model`. Raises
    ConfigError for flags that would do nothing without others, and for every fault that
    NOATraining finds.
    """
    _refuse_idle(given, begun or {})
    mode = MODES[given.get(MODE, "mse_led")]
    values = mode | {KEYS[flag]: value for flag, value in given.items() if flag in KEYS}
    if begun is None:
        document = replace({"model": model or {}}, {**_defaults(given), **values})
    else:
        if ENABLE in given and not begun["loss"]["lambda_latent"]:
            values = {KEYS["lambda_latent"]: NOALoss().lambda_latent, **values}
        document = replace(begun, values)
    return parse(NOATraining, document, where="train-noa", overrides=overrides)


def default(flag: str) -> Any:
    """What the flag is when it is not given, to a run with a tokenizer and every loss."""
    aligned = {"dataset": "-", "vqvae_path": "-", ENABLE: True}
    return dotted(noa_training(aligned).model_dump(mode="json"))[KEYS[flag]]


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(GUIDE)
    if given.get("timesteps", GUIDE["rollout.timesteps"]) > WINDOW:
        values["rollout.bptt_window"] = WINDOW
    if "vqvae_path" not in given:
        values[KEYS["lambda_commit"]] = 0.0
    if ENABLE not in given:
        values[KEYS["lambda_latent"]] = 0.0
    return values


def _refuse_idle(given: Mapping[str, Any], begun: Mapping[str, Any]) -> None:
    """Flags that would change nothing are a misunderstanding."""
    if "vqvae_path" not in given and begun.get("tokenizer") is None:
        idle = [flag for flag in NEEDS_TOKENIZER if flag in given]
        idle += [MODE] if given.get(MODE) == "vq_led" else []
        if idle:
            raise ConfigError(
                f"{_written(idle)}: it compares with a tokenizer, and none is given. Add "
                "--vqvae-path DIRECTORY (a trained VQ-VAE). Without one the run is the state-only "
                "baseline, which has L_traj alone."
            )
    if ENABLE not in given and not begun.get("loss", {}).get("lambda_latent"):
        idle = [flag for flag in _LATENT if flag in given]
        if idle:
            raise ConfigError(
                f"{_written(idle)}: it has no effect while L_latent is off. Add "
                "--enable-latent-loss."
            )


def _written(flags: Iterable[str]) -> str:
    return ", ".join(f"--{flag.replace('_', '-')}" for flag in flags)
