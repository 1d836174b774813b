"""One loop for both tasks: exact resume, exact accumulation, and nothing skipped in silence."""

import math
import re
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from spinlock import artifact
from spinlock.config import replace
from spinlock.errors import ArtifactError, ConfigError, TrainingError
from spinlock.training import checkpoint
from spinlock.training.config import (
    NOATraining,
    OptimizerConfig,
    VQVAETraining,
    training_config,
)
from spinlock.training.evaluate import evaluate
from spinlock.training.noa_task import NOATask
from spinlock.training.optim import schedule_factor
from spinlock.training.parallel import World
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer
from spinlock.vqvae import VQVAE, Tokenizer

SMALL = {
    "base_channels": 4,
    "encoder_levels": 1,
    "modes": 4,
    "afno_blocks": 1,
    "blocks_per_level": 1,
}
MEASURED = ("seconds", "peak_memory_bytes")


@pytest.fixture
def noa(tiny_data: Path, tiny_tokenizer: Path) -> dict[str, Any]:
    return {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "tokenizer": str(tiny_tokenizer),
        "model": SMALL,
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "batch_size": 4,
        "epochs": 3,
        "seed": 1,
    }


@pytest.fixture
def vqvae(tiny_data: Path) -> dict[str, Any]:
    return {
        "task": "vqvae",
        "data": {"path": str(tiny_data)},
        "frames": 9,
        "model": {"hidden_dim": 16, "embedding_dim": 16, "dead_code_reset_interval": 2},
        "batch_size": 4,
        "epochs": 3,
    }


def built(document: dict[str, Any], **changes: Any) -> NOATraining | VQVAETraining:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return training_config(replace(document, dotted), where="test")


def train(trainer: Trainer) -> list[dict[str, float]]:
    return [numbers(report) for report in trainer.epochs()]


def numbers(report: EpochReport) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if name not in MEASURED}


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.task.modules.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("task", ["noa", "vqvae"])
def test_training_resumed_after_two_epochs_equals_training_straight_through(
    task: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = built(request.getfixturevalue(task))
    straight = Trainer(config)
    reports = train(straight)

    first = Trainer(config)
    running = first.epochs()
    begun = [numbers(next(running)), numbers(next(running))]
    first.save(tmp_path)
    second = Trainer(config)
    torch.randn(7)  # whatever the process did in between
    second.restore(tmp_path)
    assert second.last_report is not None
    assert numbers(second.last_report) == begun[-1]
    assert [*begun, *train(second)] == reports
    assert same(weights(second), weights(straight))


@pytest.mark.parametrize("task", ["noa", "vqvae"])
@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_training_resumed_in_the_middle_of_an_epoch_equals_training_straight_through(
    task: str, step: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = built(request.getfixturevalue(task))
    straight = Trainer(config)
    reports = train(straight)

    def save(trainer: Trainer) -> None:
        if trainer.state.global_step == step:
            trainer.save(tmp_path)

    train(Trainer(config, on_step=save))
    resumed = Trainer(config)
    resumed.restore(tmp_path)
    assert resumed.state.global_step == step
    assert train(resumed) == reports[finished_epochs(step) :]
    assert same(weights(resumed), weights(straight))


def finished_epochs(step: int) -> int:
    """Ten training items in batches of 4 are three updates an epoch."""
    return step // 3


@pytest.mark.parametrize("task", ["noa", "vqvae"])
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(
    task: str, request: pytest.FixtureRequest
) -> None:
    document = request.getfixturevalue(task)
    one, two, other = (train(Trainer(built(document, seed=seed, epochs=1))) for seed in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_give_the_update_of_the_whole_batch_to_rounding(
    noa: dict[str, Any], micro: int
) -> None:
    whole = Trainer(built(noa, epochs=1))
    parts = Trainer(built(noa, epochs=1, micro_batch=micro))
    (first,), (second,) = train(whole), train(parts)
    assert second.pop("micro_batch") == micro
    assert first.pop("micro_batch") == 4
    assert second == pytest.approx(first, rel=1e-4)


def test_a_tokenizer_is_validated_in_micro_batches_with_the_same_scores(
    vqvae: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(built(vqvae, epochs=1, data__validation_fraction=0.5))
    latent_rows = VQVAE.latent_rows

    def short_of_memory(model: VQVAE, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2 and not model.training:
            raise torch.OutOfMemoryError
        return latent_rows(model, batch)

    with monkeypatch.context() as patched:
        patched.setattr(VQVAE, "latent_rows", short_of_memory)
        (report,) = trainer.epochs()
    assert report.stop is None
    assert trainer.state.micro_batch == 2
    for block in (1, 4, 6):
        for name, value in trainer.task.validate(trainer.world, block).items():
            assert report.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, block)


def test_the_projector_learns_and_the_tokenizer_does_not_move(noa: dict[str, Any]) -> None:
    trainer = Trainer(built(noa, epochs=1))
    before = weights(trainer)
    frozen = {k: v.clone() for k, v in trainer.task.tokenizer.state_dict().items()}
    train(trainer)
    moved = {k for k, v in weights(trainer).items() if not torch.equal(v, before[k])}
    assert {k for k in before if k.startswith("projector.")} <= moved
    assert same(frozen, dict(trainer.task.tokenizer.state_dict()))


@pytest.mark.parametrize(
    ("commit", "latent", "steps"), [(0.5, 0.1, 3), (0.0, 0.1, -1), (2.0, 0.0, 1), (0.0, 0.0, 2)]
)
def test_the_total_is_the_weighted_sum_and_every_score_is_reported_whatever_the_weights(
    noa: dict[str, Any], commit: float, latent: float, steps: int
) -> None:
    config = built(
        noa,
        epochs=1,
        loss__lambda_commit=commit,
        loss__lambda_latent=latent,
        loss__latent_sample_steps=steps,
    )
    (report,) = train(Trainer(config))
    expected = (
        report["train/traj"] + commit * report["train/commit"] + latent * report["train/latent"]
    )
    assert report["train/total"] == pytest.approx(expected, rel=1e-5)
    assert {"val/traj", "val/commit", "val/latent"} <= report.keys()
    assert "val/total" not in report


def test_validation_does_not_depend_on_any_searched_setting_of_the_loss(
    noa: dict[str, Any],
) -> None:
    scores = [
        Trainer(
            built(noa, loss__lambda_commit=commit, loss__latent_sample_steps=steps, batch_size=size)
        ).task.validate(World(), size)
        for commit, steps, size in [(0.5, 3, 4), (0.0, -1, 4), (2.0, 1, 3)]
    ]
    for score in scores[1:]:
        assert score == pytest.approx(scores[0], rel=1e-5)


def test_without_a_tokenizer_the_baseline_trains_on_states_alone(noa: dict[str, Any]) -> None:
    config = built(noa, tokenizer=None, loss__lambda_commit=0, loss__lambda_latent=0, epochs=1)
    (report,) = train(Trainer(config))
    assert "val/traj" in report
    assert "val/commit" not in report


def test_learning_lowers_the_error_on_held_out_operators(noa: dict[str, Any]) -> None:
    reports = train(Trainer(built(noa, epochs=6, optimizer__lr=3e-3)))
    assert reports[-1]["val/traj"] < 0.9 * reports[0]["val/traj"]


def test_a_small_gain_of_the_head_starts_from_standing_still_and_learning_beats_it(
    noa: dict[str, Any],
) -> None:
    trainer = Trainer(built(noa, epochs=12, optimizer__lr=3e-3, model__head_gain=0.1))
    task = trainer.task
    assert isinstance(task, NOATask)
    seen = task.windows.batch(task.split.train, torch.device("cpu"))
    still = float((seen.initial[:, None] - seen.target).square().mean())
    with torch.no_grad():
        untrained = float(task.scores(task.split.train)["traj"])
    assert untrained == pytest.approx(still, rel=0.1)
    assert train(trainer)[-1]["train/traj"] < 0.95 * still


def test_nonfinite_gradients_are_skipped_counted_named_and_end_the_epoch(
    noa: dict[str, Any],
) -> None:
    config = built(
        noa,
        optimizer__lr=1e30,
        optimizer__warmup_steps=0,
        batch_size=1,
        nonfinite__max_consecutive=3,
    )
    trainer = Trainer(config)
    (report,) = list(trainer.epochs())
    assert report.stop is not None
    assert report.stop.kind == "nonfinite"
    assert "3 updates in a row were skipped for NaN or infinite gradients" in report.stop.sentence
    assert "uafno." in report.stop.sentence
    assert set(report.nonfinite) <= set(dict(trainer.task.modules.named_parameters()))
    assert report.nonfinite["uafno.head.weight"] == 3
    assert report.metrics["updates"] == 1
    assert report.metrics["skipped_updates"] == 3
    assert not list(trainer.epochs())


def test_a_short_epoch_whose_every_update_is_skipped_ends_the_run(noa: dict[str, Any]) -> None:
    config = built(noa, loss__lambda_traj=1e38, nonfinite__min_updates=99)
    (report,) = list(Trainer(config).epochs())
    assert report.stop is not None
    assert report.stop.sentence.startswith("all 3 updates of epoch 1 were skipped")
    assert report.metrics["updates"] == 0


def test_early_stopping_ends_a_run_that_no_longer_improves(noa: dict[str, Any]) -> None:
    # A rate too small to move a weight: no epoch is strictly better than the first.
    config = built(noa, epochs=9, early_stopping_patience=2, optimizer__lr=1e-30)
    reports = list(Trainer(config).epochs())
    assert len(reports) == 3
    assert reports[-1].stop is not None
    assert reports[-1].stop.sentence.startswith("val/traj has not improved for 2 epochs")


@pytest.mark.parametrize("task", ["noa", "vqvae"])
def test_an_exported_artifact_reproduces_its_metrics_exactly(
    task: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trainer = Trainer(built(request.getfixturevalue(task), epochs=2))
    *_, last = trainer.epochs()
    trainer.task.export(tmp_path / "out", last.metrics, artifact.provenance(seed=1))
    again = evaluate(tmp_path / "out", task)
    assert again == {name: last.metrics[name] for name in again}
    assert again


def test_a_checkpoint_of_another_configuration_is_refused_naming_the_keys(
    noa: dict[str, Any], tmp_path: Path
) -> None:
    Trainer(built(noa)).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"loss.lambda_commit: 0.5 there, 0.7 here"):
        Trainer(built(noa, loss__lambda_commit=0.7)).restore(tmp_path)


def test_a_checkpoint_older_than_a_key_ran_with_its_default(
    noa: dict[str, Any], tmp_path: Path
) -> None:
    trainer = Trainer(built(noa))
    trainer.save(tmp_path)
    state = checkpoint.read(tmp_path)
    del state["config"]["val_every_n_epochs"], state["config"]["optimizer"]["schedule"]
    checkpoint.write(tmp_path, {key: state[key] for key in state if key != "format"})
    Trainer(built(noa)).restore(tmp_path)
    with pytest.raises(ArtifactError, match="val_every_n_epochs: 1 there, 2 here"):
        Trainer(built(noa, val_every_n_epochs=2)).restore(tmp_path)


def test_a_checkpoint_of_other_data_is_refused_and_of_the_same_data_elsewhere_taken(
    noa: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    Trainer(built(noa)).save(tmp_path)
    moved, other = tmp_path / "moved.h5", tmp_path / "other.h5"
    moved.write_bytes(tiny_data.read_bytes())
    Trainer(built(noa, data__path=str(moved))).restore(tmp_path)
    other.write_bytes(tiny_data.read_bytes())
    with h5py.File(other, "r+") as file:
        file["outputs/fields"][0, 0, 3] += 1
    with pytest.raises(ArtifactError, match="trained with other files:\n  data: sha256"):
        Trainer(built(noa, data__path=str(other))).restore(tmp_path)


def test_another_tokenizer_is_refused_on_resume_and_on_evaluation(
    noa: dict[str, Any], tiny_tokenizer: Path, tmp_path: Path
) -> None:
    trainer = Trainer(built(noa, epochs=1))
    (report,) = trainer.epochs()
    trainer.save(tmp_path)
    trainer.task.export(tmp_path / "out", report.metrics, {})
    other = Tokenizer.load(tiny_tokenizer)
    with torch.no_grad():
        other.vqvae.bank.codebooks.mul_(1.5)
    other.save(tmp_path / "other", {}, {})
    with pytest.raises(ArtifactError, match="tokenizer: sha256"):
        Trainer(built(noa, tokenizer=str(tmp_path / "other"))).restore(tmp_path)
    with pytest.raises(ArtifactError, match="tokenizer: sha256"):
        evaluate(tmp_path / "out", tokenizer=tmp_path / "other")


def test_a_micro_batch_asked_for_on_resume_is_used(noa: dict[str, Any], tmp_path: Path) -> None:
    Trainer(built(noa)).save(tmp_path)
    resumed = Trainer(built(noa, micro_batch=2))
    resumed.restore(tmp_path)
    assert next(resumed.epochs()).metrics["micro_batch"] == 2


def test_a_finished_run_can_be_given_more_epochs(noa: dict[str, Any], tmp_path: Path) -> None:
    first = Trainer(built(noa, epochs=1))
    train(first)
    first.save(tmp_path)
    longer = Trainer(built(noa, epochs=2))
    longer.restore(tmp_path)
    assert len(train(longer)) == 1


def test_a_damaged_or_missing_checkpoint_is_refused(noa: dict[str, Any], tmp_path: Path) -> None:
    trainer = Trainer(built(noa))
    with pytest.raises(ArtifactError, match="no checkpoint here"):
        trainer.restore(tmp_path)
    trainer.save(tmp_path)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="damaged"):
        trainer.restore(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout__timesteps": 64, "rollout__bptt_window": None}, "16 < T <= 32     optional: 16"),
        ({"rollout__bptt_window": 9}, "longer than the 8 timesteps"),
        ({"loss__latent_sample_steps": 5}, "cannot sample 5 distinct states of a window of 4"),
        ({"tokenizer": None}, "none is given"),
        (
            {"loss__lambda_traj": 0, "loss__lambda_commit": 0, "loss__lambda_latent": 0},
            "nothing to train",
        ),
        ({"task": "nao"}, "Did you mean 'noa'?"),
        ({"optimizer__lr": 0}, "optimizer.lr"),
    ],
)
def test_a_configuration_that_cannot_train_is_refused(
    noa: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=_literally(message)):
        built(noa, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout__timesteps": 12}, "needs 13 frames"),
        ({"data__operators": 99}, "asks for 99 and the file holds 12"),
        ({"model__encoder_levels": 5}, "divide by 2**encoder_levels = 32"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    noa: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=_literally(message)):
        Trainer(built(noa, **changes))


def test_a_tokenizer_of_other_trajectories_is_refused(noa: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="9 expected, 7 found"):
        Trainer(built(noa, rollout__timesteps=6))


def test_no_operator_is_on_both_sides_of_the_split(noa: dict[str, Any]) -> None:
    split = Trainer(built(noa)).task.split
    assert not set(split.train) & set(split.validation)
    assert sorted([*split.train, *split.validation]) == list(range(12))


def test_the_warm_up_starts_at_a_tenth_and_the_cosine_ends_at_zero() -> None:
    config = OptimizerConfig(warmup_steps=10)
    factors = [schedule_factor(config, step=step, updates=110) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0)
    assert all(math.isfinite(factor) for factor in factors)


def _literally(text: str) -> str:
    return re.escape(text)
