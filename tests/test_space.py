"""A space is answered for as a whole before anything starts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searching import Regression

from spinlock.errors import ConfigError
from spinlock.search.check import load_study
from spinlock.search.noa import NOA
from spinlock.search.schema import study_schema
from spinlock.search.space import ASHA, Parameter, Study

SHIPPED = Path(__file__).parents[1] / "search_spaces"
SPACE = """\
name: lines
trials: 4
training:
  epochs: 3
space:
  optimizer.lr: {log_uniform: [1e-4, 1e-1]}
  loss.lambda_commit: {uniform: [0, 1]}
  batch_size: {choice: [4, 8]}
start:
  - {optimizer.lr: 0.01}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_study(path, Regression(), overrides)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_loads_and_each_of_its_extremes_could_train(path: Path) -> None:
    files = {"data.path": "data.h5", "tokenizer": "tokenizer"}
    study = load_study(path, NOA(), defaults=files)
    assert study.trials > 0
    assert study.start, "the recommended settings are tried first"


def test_the_shipped_schema_is_that_of_the_code() -> None:
    shipped = json.loads((SHIPPED / "study.schema.json").read_text())
    assert shipped == study_schema(NOA()), "python -m spinlock.search.schema writes it anew"


def test_a_space_says_what_it_searches(space: Path) -> None:
    study = load_study(space, Regression(), ["trials=7", "training.seed=5"])
    assert (study.trials, study.training) == (7, {"epochs": 3, "seed": 5})
    assert list(study.space) == ["optimizer.lr", "loss.lambda_commit", "batch_size"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optimizer.lr: {log", "optimizer.l: {log", r"yaml:6: space.optimizer.l: .*'optimizer.lr'"),
        ("log_uniform", "log_unifrom", r"space.yaml:6: .*log_unifrom.*Did you mean 'log_uniform'"),
        ("uniform: [0, 1]", "uniform: [1, 0]", r"space.yaml:7: .*lower end 1 must be below"),
        ("uniform: [0, 1]", "uniform: [-1, 1]", r"yaml:7: space.loss.lambda_commit: .*Found -1"),
        ("[1e-4, 1e-1]", "[0, 1e-1]", r"space.yaml:6: .*log scale starts above 0"),
        ("[4, 8]", "[4, 0]", r"space.yaml:8: space.batch_size: .*greater than or equal to 1"),
        ("[4, 8]", "[4, 4]", r"space.yaml:8: .*each value once"),
        ("{choice: [4, 8]}", "{choice: [4], uniform: [1, 2]}", r"space.yaml:8: .*exactly one"),
        ("epochs: 3", "epoch: 3", r"space.yaml:4: .*epoch.*Did you mean 'epochs'"),
        ("epochs: 3", "epochs: 0", r"space.yaml:4: .*epochs.*greater than or equal to 1"),
        ("epochs: 3", "batch_size: 3", r"space.yaml:8: .*fixed to 3 under training"),
        ("lr: 0.01}", "lr: 0.5}", r"space.yaml:10: start.0.optimizer.lr: 0.5 is outside"),
        ("- {optimizer.lr", "- {optimizer.rl", r"yaml:10: start.0.optimizer.rl.*optimizer.lr"),
        ("trials: 4", "trails: 4", r"space.yaml:2: trails.*Did you mean 'trials'"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_file_line_key_and_what_to_do(
    space: Path, old: str, new: str, message: str
) -> None:
    text = space.read_text()
    assert old in text
    space.write_text(text.replace(old, new, 1))
    assert re.search(message, fault(space), re.DOTALL)


def test_an_objective_that_searched_weights_enter_is_refused_with_the_reason(space: Path) -> None:
    message = fault(space, "objective.metric=train/total")
    assert "loss.lambda_commit" in message
    assert "falls as the weights fall" in message


def test_a_misspelt_objective_or_guarded_metric_is_answered_with_the_right_one(space: Path) -> None:
    assert "Did you mean 'val/traj'?" in fault(space, "objective.metric=val/trja")
    message = fault(space, "guards=[{kind: commit_climb, metric: val/comit}]")
    assert "guards.0" in message
    assert "Did you mean 'val/commit'?" in message


def test_data_parallel_workers_need_ray_train(space: Path) -> None:
    message = fault(space, "resources.execution=in_process", "resources.workers=2")
    assert "Set execution: ray_train" in message


def test_every_fault_of_a_file_is_told_at_once(space: Path) -> None:
    text = SPACE.replace("[0, 1]", "[-1, 1]").replace("[4, 8]", "[4, 0]")
    space.write_text(text)
    message = fault(space)
    assert "space.yaml:7: space.loss.lambda_commit" in message
    assert "space.yaml:8: space.batch_size" in message


@given(seed=st.integers(0, 2**32 - 1), low=st.floats(1e-6, 1), factor=st.floats(1.1, 1e6))
def test_a_sample_lies_in_its_space(seed: int, low: float, factor: float) -> None:
    random = np.random.default_rng(seed)
    for name in ("log_uniform", "uniform"):
        parameter = Parameter.model_validate({name: [low, low * factor]})
        value = parameter.sample(random)
        assert isinstance(value, float)
        assert low * (1 - 1e-12) <= value <= low * factor * (1 + 1e-12)
    whole = Parameter(int_uniform=(-2, 3))
    assert whole.holds(whole.sample(random))
    assert Parameter(choice=(3, "all", True)).holds(
        Parameter(choice=(3, "all", True)).sample(random)
    )


def test_rungs_are_powers_of_the_factor_before_the_last_epoch() -> None:
    assert ASHA(grace_epochs=1, reduction_factor=3).rungs(27) == (1, 3, 9)
    assert ASHA(grace_epochs=2, reduction_factor=2).rungs(9) == (2, 4, 8)
    assert ASHA(grace_epochs=5).rungs(5) == ()
    assert ASHA(grace_epochs=1, reduction_factor=1.1).rungs(4) == (1, 2, 3)


def test_a_study_survives_its_own_json(space: Path) -> None:
    study = load_study(space, Regression())
    assert Study.model_validate(study.model_dump(mode="json")) == study
