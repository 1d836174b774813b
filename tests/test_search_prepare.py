"""A search asks for what it stands on before it starts: files that fit it and each other."""

from pathlib import Path

import pytest

from spinlock.errors import ArtifactError, DatasetError, SpinlockError, TrainingError
from spinlock.search.noa import NOA
from spinlock.search.prepare import Recipes, fulfil, plan
from spinlock.search.space import Study
from spinlock.search.vqvae import VQVAE
from spinlock.training.config import training_config
from spinlock.training.trainer import Trainer

SPACE = """\
name: tiny
trials: 2
training:
  rollout: {timesteps: 8}
  model: {base_channels: 4, encoder_levels: 1, modes: 4, afno_blocks: 1}
space:
  loss.lambda_commit: {uniform: [0.1, 1]}
"""


def planned(space: Path, changes: list[str], *, data: Path | None, tokenizer: Path | None) -> Study:
    return plan(space, NOA(), changes, files={"data.path": data, "tokenizer": tokenizer})


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def test_a_dataset_that_is_not_there_is_told_before_anything_starts(
    space: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.h5"):
        planned(space, [], data=tmp_path / "nowhere.h5", tokenizer=None)


@pytest.mark.parametrize("with_data", [True, False])
def test_a_tokenizer_that_is_none_is_told_with_and_without_data(
    space: Path, tiny_data: Path, tmp_path: Path, with_data: bool
) -> None:
    with pytest.raises(ArtifactError, match="not a Spinlock artifact"):
        planned(space, [], data=tiny_data if with_data else None, tokenizer=tmp_path)


def test_a_tokenizer_of_other_trajectories_is_told_by_its_name(
    space: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    with pytest.raises(ArtifactError, match=f"{tiny_tokenizer}.*9 expected, 7 found"):
        planned(space, ["training.rollout.timesteps=6"], data=tiny_data, tokenizer=tiny_tokenizer)


def test_every_extreme_of_the_space_is_held_against_the_data(space: Path, tiny_data: Path) -> None:
    space.write_text(
        SPACE.replace("encoder_levels: 1, ", "") + "  model.encoder_levels: {int_uniform: [1, 5]}\n"
    )
    with pytest.raises(TrainingError, match=r"2\*\*encoder_levels = 32"):
        planned(space, [], data=tiny_data, tokenizer=None)


def test_paths_of_a_study_are_absolute_when_it_runs(
    space: Path, tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    study = planned(space, [], data=tiny_data, tokenizer=tiny_tokenizer)
    said: list[str] = []
    recipes = Recipes(tmp_path / "x.yaml", tmp_path / "y.yaml", tmp_path / "artifacts")
    ready = fulfil(study, NOA(), recipes, said.append)
    assert Path(ready.study.training["data"]["path"]).is_absolute()
    assert len(said) == 1  # the file was read once, and is not read again
    fulfil(study, NOA(), recipes, said.append)
    assert len(said) == 1


TOKENIZERS = """\
name: tokenizers
trials: 2
objective: {metric: quality/composite}
training:
  model: {hidden_dim: 16, embedding_dim: 16}
space:
  batch_size: {choice: [2, 4]}
"""


@pytest.fixture
def tokenizers(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizers.yaml"
    path.write_text(TOKENIZERS)
    return path


def test_features_are_computed_once_for_all_trials(
    tokenizers: Path, tiny_data: Path, tmp_path: Path
) -> None:
    study = plan(tokenizers, VQVAE(), [], files={"data.path": tiny_data})
    recipes = Recipes(tmp_path / "x.yaml", tmp_path / "y.yaml", tmp_path / "artifacts")
    first = fulfil(study, VQVAE(), recipes, lambda _: None)
    cache = Path(first.study.training["features_cache"])
    assert cache == (tmp_path / "artifacts" / "features").resolve()
    (file,) = cache.iterdir()
    made = file.stat().st_mtime_ns
    for point in first.study.extremes():
        Trainer(training_config(first.study.configuration(point) | {"task": "vqvae"}, where="x"))
    assert [f.stat().st_mtime_ns for f in cache.iterdir()] == [made]
    own = tmp_path / "own"
    study = plan(
        tokenizers, VQVAE(), [f"training.features_cache={own}"], files={"data.path": tiny_data}
    )
    ready = fulfil(study, VQVAE(), recipes, lambda _: None)
    assert ready.study.training["features_cache"] == str(own)
    assert len(list(own.iterdir())) == 1


def test_a_tokenizer_that_its_data_cannot_give_is_told_before_any_trial(
    tokenizers: Path, tiny_data: Path, tmp_path: Path
) -> None:
    study = plan(tokenizers, VQVAE(), ["training.frames=99"], files={"data.path": tiny_data})
    recipes = Recipes(tmp_path / "x.yaml", tmp_path / "y.yaml", tmp_path / "artifacts")
    with pytest.raises(TrainingError, match="frames 99 were asked for; the file holds 9"):
        fulfil(study, VQVAE(), recipes, lambda _: None)


def test_a_place_for_artifacts_that_is_a_file_is_refused(
    space: Path, tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    study = planned(space, [], data=tiny_data, tokenizer=tiny_tokenizer)
    recipes = Recipes(tmp_path / "x.yaml", tmp_path / "y.yaml", space)
    with pytest.raises(SpinlockError, match="cannot be the directory for what is made once"):
        fulfil(study, NOA(), recipes, print)
