"""The command that trains with another window: by a recipe, and by the training guides' flags."""

import json
import shlex
from pathlib import Path
from typing import Any

from spinlock.config import as_yaml, dotted, replace
from spinlock.errors import ConfigError
from spinlock.files import atomic_file
from spinlock.training.config import NOATraining, training_config
from spinlock.training.noa_recipe import ENABLE, KEYS, NEEDS_TOKENIZER, noa_training

RECIPE, OUT = "RECIPE.yaml", "NEW_RUN"


def mended(training: dict[str, Any], timesteps: int, window: int) -> NOATraining:
    """The training's configuration with this window. Raises ConfigError if it is not one."""
    changed = replace(training, {"rollout.timesteps": timesteps, "rollout.bptt_window": window})
    found = training_config(changed, where="the training's configuration")
    assert isinstance(found, NOATraining)
    return found


def write_recipe(path: Path, training: NOATraining) -> None:
    """The configuration as a recipe for `spinlock train`."""
    with atomic_file(path) as beside:
        beside.write_text(as_yaml(training.model_dump(mode="json")) + "\n", encoding="utf-8")


def commands(
    then: dict[str, Any], wanted: NOATraining, recipe: Path | None = None
) -> tuple[str, str]:
    """From a training to the `wanted` one: by its own recipe, and by the flags of train-noa.

    A `recipe` that `write_recipe` has written needs no flag.
    """
    by_recipe = ["spinlock", "train", RECIPE if recipe is None else str(recipe), "--out", OUT]
    if recipe is None:
        by_recipe += _settings(dotted(then), dotted(wanted.model_dump(mode="json")))
    return shlex.join(by_recipe), shlex.join([*_by_flags(wanted), "--checkpoint-dir", OUT])


def _by_flags(wanted: NOATraining) -> list[str]:
    """The fewest flags that say all of it; `--set` where there is no flag."""
    leaves = dotted(wanted.model_dump(mode="json"))
    given = {flag: leaves[key] for flag, key in KEYS.items() if leaves[key] is not None}
    if wanted.loss.lambda_latent:
        given[ENABLE] = True
    idle = [] if wanted.tokenizer else [*NEEDS_TOKENIZER]
    idle += [] if wanted.loss.lambda_latent else ["lambda_latent", "latent_sample_steps"]
    for flag in idle:
        given.pop(flag, None)
    found = _leaves(given)
    for flag in list(given):
        less = {name: value for name, value in given.items() if name != flag}
        if flag not in ("dataset", "bptt_window") and _leaves(less) == found:
            given = less
    words = ["spinlock", "train-noa"]
    for flag, value in given.items():
        words += [f"--{flag.replace('_', '-')}", *([] if value is True else [str(value)])]
    return [*words, *_settings(found or {}, leaves)]


def _leaves(given: dict[str, Any]) -> dict[str, Any] | None:
    """The training that these flags describe; None if they describe none."""
    try:
        return dotted(noa_training(given).model_dump(mode="json"))
    except ConfigError:
        return None


def _settings(then: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """`--set` for every leaf that differs."""
    return [
        word
        for key, value in wanted.items()
        if key not in then or then[key] != value
        for word in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    ]
