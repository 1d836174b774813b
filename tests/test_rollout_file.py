"""Rollouts of a NOA written as a dataset: what the file holds, and who it is the truth of."""

import math
from pathlib import Path

import h5py
import pytest
import torch
from dataset_files import write_prototype

from spinlock.data import open_dataset, schema
from spinlock.data.operators import read_operators
from spinlock.errors import DatasetError, GroundTruthError
from spinlock.evaluation.rollout_file import write_rollouts
from spinlock.evaluation.subject import load_subject
from spinlock.evaluation.validation import validate
from spinlock.evaluation.verdict import Status
from spinlock.noa import rollout
from spinlock.training.config import training_config
from spinlock.training.trainer import Trainer


@pytest.fixture(scope="module")
def noa(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained NOA."""
    document = {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "model": {"base_channels": 4, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
        "rollout": {"timesteps": 8},
        "loss": {"lambda_commit": 0, "lambda_latent": 0},
    }
    path = tmp_path_factory.mktemp("noa") / "step_0.pt"
    Trainer(training_config(document, where="test")).save(path)
    return path


@pytest.fixture(scope="module")
def written(noa: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rollouts") / "rollouts.h5"
    write_rollouts(noa, tiny_data, path)
    return path


def test_the_file_holds_the_noas_rollouts_of_the_same_operators(
    noa: Path, tiny_data: Path, written: Path
) -> None:
    truth, found = open_dataset(tiny_data), open_dataset(written)
    items = range(12)
    assert torch.equal(found.initial(items), truth.initial(items))
    assert torch.equal(found.parameters(items), truth.parameters(items))
    model = load_subject(noa, truth).model
    with torch.no_grad():
        expected = rollout(
            model, truth.initial([5]), truth.parameters([5]), timesteps=8, window=8
        ).frames
    torch.testing.assert_close(found.trajectories([5]), expected)
    assert found.info.channel_names == truth.info.channel_names
    assert found.info.domain == "cno, rolled out by a NOA"
    with h5py.File(tiny_data) as one, h5py.File(written) as other:
        for name in (schema.UNIT, schema.PHYSICAL, schema.SEEDS):
            assert (one[name][()] == other[name][()]).all()
        assert list(one[schema.UNIT].attrs["names"]) == list(other[schema.UNIT].attrs["names"])


def test_against_its_own_rollouts_a_noa_is_perfect(
    noa: Path, written: Path, tiny_tokenizer: Path
) -> None:
    found = validate(noa, tiny_tokenizer, written)
    assert found.samples == 12
    assert found.measured is not None
    assert found.measured.ratio == 1.0
    assert all(each.ks == 0.0 for each in found.measured.features)
    assert found.measured.tokens.agreement == 1.0
    assert found.verdict is Status.PASS


def test_fewer_operators_and_other_steps_may_be_asked_for(
    noa: Path, tiny_data: Path, tmp_path: Path
) -> None:
    info = write_rollouts(noa, tiny_data, tmp_path / "r.h5", samples=3, timesteps=20)
    assert (info.operators, info.realizations, info.frames) == (3, 1, 21)


def test_what_cannot_be_written_is_refused(
    noa: Path, tiny_data: Path, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="13 operators are asked for; it has 12"):
        write_rollouts(noa, tiny_data, tmp_path / "r.h5", samples=13)
    with pytest.raises(DatasetError, match="exists already"):
        write_rollouts(noa, tiny_data, written)
    sick = tmp_path / "sick.pt"
    saved = torch.load(noa, weights_only=True)
    saved["model"]["uafno.head.weight"].fill_(math.inf)
    torch.save(saved, sick)
    with pytest.raises(GroundTruthError, match="operator 0: the NOA's rollout is not finite from"):
        write_rollouts(sick, tiny_data, tmp_path / "r.h5")
    assert not [*tmp_path.glob("r.h5*")]


def test_a_file_that_does_not_say_how_its_operators_were_drawn_is_refused(tmp_path: Path) -> None:
    write_prototype(tmp_path / "p.h5")
    with pytest.raises(DatasetError, match="layout 'prototype' does not say"):
        read_operators(tmp_path / "p.h5", 1)
