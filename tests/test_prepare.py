"""What a search stands on is made once, whole, and on the right operators."""

from pathlib import Path

import pytest

from spinlock.artifact import load
from spinlock.training.config import DataConfig, training_config
from spinlock.training.prepare import dataset, tokenizer, train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer

RECIPE = """\
task: vqvae
epochs: 3
model: {hidden_dim: 16, embedding_dim: 16}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.yaml"
    path.write_text(RECIPE)
    return path


def test_a_tokenizer_is_trained_once_and_reused(
    recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    told: list[int] = []

    def progress(report: EpochReport, epochs: int) -> None:
        told.append(report.epoch)

    data = DataConfig(path=tiny_data)
    first = tokenizer(recipe, data, 9, tmp_path / "a", seed=0, progress=progress)
    again = tokenizer(recipe, data, 9, tmp_path / "a", seed=0, progress=progress)
    other = tokenizer(recipe, data, 9, tmp_path / "a", seed=1)
    assert told == [1, 2, 3]
    assert first == again
    assert first != other


def test_ground_truth_is_made_once_and_a_changed_recipe_makes_its_own(tmp_path: Path) -> None:
    recipe, told = tmp_path / "dataset.yaml", list[int]()
    words = "operators: {}\nseed: 1\ngrid: 8\nframes: 3\ndomain: {{kind: cno}}\n"
    made = []
    for operators in (2, 2, 3):
        recipe.write_text(words.format(operators))
        made.append(dataset(recipe, tmp_path / "a", progress=lambda p: told.append(p.done)))
        told.append(-1)
    assert made[0] == made[1] != made[2]
    first, second, third = "".join("p" if done >= 0 else "|" for done in told).split("|")[:3]
    assert first
    assert not second
    assert third


def test_an_interrupted_tokenizer_is_never_taken_for_a_finished_one(
    recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    def interrupt(report: EpochReport, epochs: int) -> None:
        raise KeyboardInterrupt

    data = DataConfig(path=tiny_data)
    with pytest.raises(KeyboardInterrupt):
        tokenizer(recipe, data, 9, tmp_path / "a", seed=0, progress=interrupt)
    assert list((tmp_path / "a").iterdir()) == []
    made = tokenizer(recipe, data, 9, tmp_path / "a", seed=0)
    undisturbed = tokenizer(recipe, data, 9, tmp_path / "b", seed=0)
    metrics = [load(path, "vqvae").metrics for path in (made, undisturbed)]
    assert metrics[0]["val/reconstruction"] == metrics[1]["val/reconstruction"]


def test_the_tokenizer_holds_out_the_operators_that_the_noa_holds_out(
    recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = DataConfig(path=tiny_data, operators=10, validation_fraction=0.3)
    path = tokenizer(recipe, data, 9, tmp_path, seed=5)
    trained = load(path, "vqvae").provenance["training"]
    noa = training_config(
        {
            "data": data.model_dump(mode="json"),
            "tokenizer": str(path),
            "rollout": {"timesteps": 8},
            "model": {"base_channels": 4, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
            "seed": 5,
        },
        where="test",
    )
    vqvae = training_config(trained, where="test")
    assert Trainer(noa).task.split == Trainer(vqvae).task.split


def test_a_finished_run_that_is_resumed_keeps_its_best_epoch(
    recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    document = {"task": "vqvae", "data": {"path": str(tiny_data)}, "frames": 9, "epochs": 2}
    trainer = Trainer(training_config(document, where="test"))
    best = train_and_export(trainer, tmp_path / "best")
    trainer.save(tmp_path / "checkpoint")
    resumed = Trainer(training_config(document, where="test"))
    resumed.restore(tmp_path / "checkpoint")
    assert train_and_export(resumed, tmp_path / "best") == best
