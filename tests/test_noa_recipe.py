"""`train-noa`'s flags: each is one key of the training configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinlock.config import dotted, known_paths
from spinlock.data import open_dataset
from spinlock.errors import ConfigError, TrainingError
from spinlock.training.batches import split
from spinlock.training.config import DataConfig, NOATraining
from spinlock.training.noa_recipe import ENABLE, KEYS, MODE, MODES, noa_training


def test_the_first_realizations_of_every_operator_are_taken_each_as_an_item(
    tiny_data: Path,
) -> None:
    info = replace(open_dataset(tiny_data).info, operators=4, realizations=3)
    every = DataConfig(path=tiny_data)
    for config, expected in [
        (every, [*range(12)]),
        (every.model_copy(update={"realizations": 2}), [0, 1, 3, 4, 6, 7, 9, 10]),
        (every.model_copy(update={"realizations": 1}), [0, 3, 6, 9]),
    ]:
        found = split(info, config, seed=0)
        assert sorted([*found.train, *found.validation]) == expected
        assert not {i // 3 for i in found.train} & {i // 3 for i in found.validation}


def test_more_realizations_than_the_file_has_are_refused(tiny_data: Path) -> None:
    wanted = DataConfig(path=tiny_data, realizations=2)
    with pytest.raises(TrainingError, match="asks for 2 and the file holds 1 of each operator"):
        split(open_dataset(tiny_data).info, wanted, seed=0)


# The guides' tables, "Recommended Value"; of a range the lower end, which is the prototype's own
# default. The window is that of a rollout longer than it.
TABLES = {
    "epochs": (10, 7),
    "batch_size": (4, 8),
    "lr": (3e-4, 1e-3),
    "bptt_window": (32, 16),
    "timesteps": (256, 128),
    "lambda_commit": (0.5, 0.2),
    "lambda_latent": (0.1, 0.5),
    "latent_sample_steps": (3, 8),
    "lr_schedule": ("cosine", "constant"),
    "warmup_steps": (500, 0),
    "early_stop_patience": (2, 5),
    "base_channels": (32, 16),
    "encoder_levels": (3, 2),
    "modes": (16, 8),
    "afno_blocks": (4, 2),
}
OTHERS = {
    "dataset": ("data.h5", "other.h5"),
    "n_samples": (None, 5000),
    "n_realizations": (None, 2),
    "vqvae_path": ("vqvae", "other"),
    "feature_matching": ("exact", "pad-truncate"),
    "lambda_traj": (1.0, 0.3),
    "lambda_ic": (None, 0.3),
    "lambda_recon": (None, 1.0),
    "lambda_tokens": (None, 0.1),
    "lambda_project": (None, 0.1),
    "lambda_augment": (None, 0.1),
    "seed": (0, 42),
}
ALL = TABLES | OTHERS
ALIGNED = {"dataset": "data.h5", "vqvae_path": "vqvae", ENABLE: True}


def keys(given: dict[str, Any]) -> dict[str, Any]:
    return dotted(noa_training(given).model_dump(mode="json"))


def test_every_flag_of_the_guides_has_a_key_and_every_key_is_tested() -> None:
    assert {*ALL} == {*KEYS}
    assert {*KEYS.values()} <= {*known_paths(NOATraining)}


@pytest.mark.parametrize("flag", KEYS)
def test_a_flag_is_its_one_key_with_the_guides_default(flag: str) -> None:
    default, other = ALL[flag]
    before, after = keys(ALIGNED), keys({**ALIGNED, flag: other})
    assert before[KEYS[flag]] == default
    assert {k for k in before if before[k] != after[k]} == {KEYS[flag]}
    assert after[KEYS[flag]] == other


def test_the_flag_without_a_key_turns_the_latent_loss_on() -> None:
    without = keys({k: v for k, v in ALIGNED.items() if k != ENABLE})
    changed = {k: v for k, v in keys(ALIGNED).items() if without[k] != v}
    assert changed == {"loss.lambda_latent": 0.1}
    assert without["loss.lambda_latent"] == 0


def test_without_a_tokenizer_the_run_is_the_state_only_baseline() -> None:
    found = noa_training({"dataset": "data.h5"})
    assert found.tokenizer is None
    assert (found.loss.lambda_traj, found.loss.lambda_commit, found.loss.lambda_latent) == (1, 0, 0)


@pytest.mark.parametrize(
    ("mode", "traj", "commit", "recon"),
    [("state", 1.0, 0.0, None), ("mse_led", 1.0, 0.5, None), ("vq_led", 0.3, 0.5, 1.0)],
)
def test_a_loss_mode_sets_the_weights_that_are_not_given(
    mode: str, traj: float, commit: float, recon: float | None
) -> None:
    given = {"dataset": "data.h5", "vqvae_path": "vqvae", MODE: mode}
    found = noa_training(given).loss
    assert (found.lambda_traj, found.lambda_commit, found.lambda_recon) == (traj, commit, recon)
    assert found.lambda_latent == 0
    louder = noa_training({**given, "lambda_commit": 0.9, "lambda_traj": 2.0}).loss
    assert (louder.lambda_traj, louder.lambda_commit) == (2.0, 0.9)
    assert set(MODES) == {"state", "mse_led", "vq_led"}


@pytest.mark.parametrize(
    "given",
    [
        *({"lambda_commit": 0.5}, {ENABLE: True}, {"lambda_latent": 0.1}, {MODE: "vq_led"}),
        *({f"lambda_{term}": 0.1} for term in ("recon", "tokens", "project", "augment")),
    ],
)
def test_a_loss_that_needs_a_tokenizer_is_refused_without_one(given: dict[str, Any]) -> None:
    (flag,) = given
    said = f"--{flag.replace('_', '-')}: it compares with a tokenizer, and none is given"
    with pytest.raises(ConfigError, match=said):
        noa_training({"dataset": "data.h5", **given})


@pytest.mark.parametrize("flag", ["lambda_latent", "latent_sample_steps"])
def test_a_flag_that_would_do_nothing_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="Add --enable-latent-loss"):
        noa_training({"dataset": "data.h5", "vqvae_path": "vqvae", flag: 1})


def test_a_short_rollout_needs_no_window_and_a_long_one_has_the_guides() -> None:
    for steps, window in [(16, None), (32, None), (33, 32), (256, 32)]:
        assert keys({"dataset": "d", "timesteps": steps})["rollout.bptt_window"] == window


def test_overrides_come_last_and_faults_are_named() -> None:
    found = noa_training({"dataset": "d", "lr": 1e-3}, overrides=["optimizer.weight_decay=0.1"])
    assert (found.optimizer.lr, found.optimizer.weight_decay) == (1e-3, 0.1)
    with pytest.raises(ConfigError, match=r"train-noa: rollout\.timesteps: Input should be"):
        noa_training({"dataset": "d", "timesteps": 0})
    with pytest.raises(ConfigError, match=r"Did you mean 'weight_decay'\?"):
        noa_training({"dataset": "d"}, overrides=["optimizer.weigt_decay=0.1"])


def test_a_run_that_goes_on_is_what_it_was_begun_with_where_nothing_is_given() -> None:
    begun = noa_training({**ALIGNED, "lr": 1e-3, "lambda_latent": 0.5}).model_dump(mode="json")
    assert noa_training({}, begun=begun).model_dump(mode="json") == begun
    more = noa_training({"epochs": 20, ENABLE: True}, begun=begun)
    assert more.model_dump(mode="json") == {**begun, "epochs": 20}
