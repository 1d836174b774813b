"""A space is answered for as a whole before anything starts."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from searching import Regression

from spinlock.config import dotted, known_paths
from spinlock.errors import ConfigError
from spinlock.search.check import load_study
from spinlock.search.noa import NOA
from spinlock.search.parameter import Parameter
from spinlock.search.schema import study_schema
from spinlock.search.space import ASHA, Objective, Study
from spinlock.search.trainable import Trainable
from spinlock.search.trainables import TRAINABLES
from spinlock.search.vqvae import VQVAE
from spinlock.training.config import DataConfig, VQVAETraining

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


STUDIES = sorted({*SHIPPED.glob("*.yaml")} - {SHIPPED / "both.yaml"})  # which names two of them


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_space_loads_and_each_of_its_extremes_could_train(path: Path) -> None:
    """Its first line, for editors, names the schema and so what it trains."""
    first, _, _ = path.read_text().partition("\n")
    kind = first.removeprefix("# yaml-language-server: $schema=").removesuffix(".schema.json")
    files = {"data.path": "data.h5"} | ({"tokenizer": "tokenizer"} if kind == "noa" else {})
    study = load_study(path, TRAINABLES[kind], defaults=files)
    assert study.trials > 0
    assert study.start, "the recommended settings are tried first"


@pytest.mark.parametrize(("kind", "other"), [("latent", "vqvae"), ("vqvae", "noa")])
def test_a_space_of_the_other_kind_is_told_whose_it_is(kind: str, other: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_study(SHIPPED / f"{kind}.yaml", TRAINABLES[other])
    mine = "noa" if other == "vqvae" else "vqvae"
    assert str(error.value).endswith(f"Give it to launch/tune_{mine}.py.")
    assert len(str(error.value).splitlines()) == 1


def test_every_setting_of_the_shipped_vqvae_space_is_started_from_its_default() -> None:
    """The first trial is the default configuration, so one search shows best against default."""
    study = load_study(SHIPPED / "vqvae.yaml", VQVAE(), defaults={"data.path": "data.h5"})
    first, *_ = study.start
    assert first.keys() == study.space.keys()
    defaults = dotted(VQVAETraining(data=DataConfig(path=Path("d"))).model_dump(mode="json"))
    fitted = {key for key, value in first.items() if value != defaults[key]}
    assert fitted == {"batch_size", "optimizer.lr"}, "model settings start from the production run"


@pytest.mark.parametrize("kind", TRAINABLES)
def test_the_shipped_schema_is_that_of_the_code(kind: str) -> None:
    shipped = json.loads((SHIPPED / f"{kind}.schema.json").read_text())
    expected = study_schema(TRAINABLES[kind])
    assert shipped == expected, f"python -m spinlock.search.schema {kind} writes it anew"


@pytest.mark.parametrize("trainable", TRAINABLES.values(), ids=lambda t: t.name)
def test_what_a_trainable_says_of_its_metrics_is_about_real_ones(trainable: Trainable) -> None:
    assert isinstance(trainable, Trainable)
    assert {*trainable.columns} <= {*trainable.metrics}
    assert trainable.weighed.keys() <= {*trainable.metrics}
    known = known_paths(trainable.model)
    assert all(setting in known for weights in trainable.weighed.values() for setting in weights)
    assert TRAINABLES[trainable.name] is trainable


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


def test_a_metric_that_no_run_would_report_is_refused_until_its_setting_is_given(
    tmp_path: Path,
) -> None:
    space = tmp_path / "space.yaml"
    told = "val/tokens, which runs report that have loss.lambda_tokens. Set it under training"
    base = "name: t\ntrials: 2\nspace:\n  optimizer.lr: {log_uniform: [1e-4, 1e-2]}\n"
    base += "training: {data: {path: d.h5}, tokenizer: v"
    guard = "guards: [{kind: divergence, metric: val/tokens, force: true}]"
    where = {
        f"{base}}}\nobjective: {{metric: val/tokens}}\n": "space.yaml:6: objective.metric",
        f"{base}}}\n{guard}\n": "space.yaml:6: guards.0",
    }
    for text, place in where.items():
        space.write_text(text)
        with pytest.raises(ConfigError, match=f"{place}.*{told}"):
            load_study(space, NOA())
        space.write_text(text.replace("tokenizer: v", "tokenizer: v, loss: {lambda_tokens: 0}"))
        load_study(space, NOA())


def test_an_objective_that_searched_weights_enter_is_refused_with_the_reason(space: Path) -> None:
    message = fault(space, "objective.metric=train/total")
    assert "space.yaml" in message
    assert "train/total is a sum that loss.lambda_commit weigh" in message
    assert "falls as the weights fall" in message
    assert "no searched weight enters: val/traj, val/commit, val/latent." in message


VQVAE_SPACE = """\
name: lines
trials: 4
objective: {metric: quality/composite}
space:
  model.commitment_cost: {uniform: [0.1, 1]}
  checkpoint.topo_weight: {uniform: [0.1, 1]}
"""


@pytest.fixture
def tokenizers(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizers.yaml"
    path.write_text(VQVAE_SPACE)
    return path


def vqvae_fault(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_study(path, VQVAE(), overrides, defaults={"data.path": "data.h5"})
    return str(error.value)


@pytest.mark.parametrize(
    ("metric", "weight"),
    [("train/total", "model.commitment_cost"), ("quality/composite", "checkpoint.topo_weight")],
)
def test_a_sum_is_an_objective_only_while_its_weights_are_fixed(
    tokenizers: Path, metric: str, weight: str
) -> None:
    message = vqvae_fault(tokenizers, f"objective.metric={metric}")
    assert f"objective.metric: {metric} is a sum that {weight} weigh" in message
    several = f"objectives=[{{metric: val/loss}}, {{metric: {metric}}}]"
    message = vqvae_fault(tokenizers, "objective=null", several, "scheduler={kind: none}")
    assert f"objectives.1.metric: {metric} is a sum" in message
    message = vqvae_fault(
        tokenizers, "objective.metric=val/loss", f"scheduler={{kind: asha, metric: {metric}}}"
    )
    assert f"scheduler.metric: {metric} is a sum" in message


def test_a_guard_that_stops_good_recorded_runs_is_refused_until_it_is_forced(
    tokenizers: Path,
) -> None:
    guard = "{kind: commit_climb, metric: val/commitment}"
    message = vqvae_fault(tokenizers, "objective.metric=val/loss", f"guards=[{guard}]")
    assert "guards.0: commit_climb stops good runs: of 100 recorded runs" in message
    assert "among the best 10" in message
    assert "force: true" in message
    forced = guard.replace("}", ", force: true}")
    changes = ["objective.metric=val/loss", f"guards=[{forced}]"]
    load_study(tokenizers, VQVAE(), changes, defaults={"data.path": "data.h5"})


def test_a_guard_of_a_vqvae_is_held_against_what_a_vqvae_reports(tokenizers: Path) -> None:
    sound = (
        *("{kind: commit_drift}", "{kind: codebook_collapse}"),
        "{kind: commit_climb, metric: val/relative_commitment, factor: 20}",
        "{kind: divergence, metric: val/reconstruction}",
    )
    study = load_study(
        tokenizers,
        VQVAE(),
        ["objective.metric=val/loss", f"guards=[{', '.join(sound)}]"],
        defaults={"data.path": "data.h5"},
    )
    assert len(study.guards) == 4
    message = vqvae_fault(
        tokenizers,
        "objective.metric=val/loss",
        "guards=[{kind: commit_drift, task: val/reconstrution}, {kind: divergence}]",
    )
    assert "guards.0: commit_drift watches val/reconstrution" in message
    assert "Did you mean 'val/reconstruction'?" in message
    assert "guards.1: divergence watches val/traj, which is not among the metrics of a vqvae" in (
        message
    )


BOTH = (Objective(metric="val/traj"), Objective(metric="val/latent", mode="max"))
TWO = "objectives=[{metric: val/traj}, {metric: val/latent, mode: max}]"


def test_several_objectives_and_asha_need_the_metric_to_compare_by(space: Path) -> None:
    message = fault(space, TWO)
    assert "scheduler: asha compares trials by one number, and there are 2 objectives" in message
    assert "(val/traj, val/latent). Name one as scheduler.metric" in message
    message = fault(space, TWO, "scheduler={kind: asha, metric: val/commit}")
    assert "val/commit is no objective (val/traj, val/latent), so say" in message
    message = fault(space, TWO, "scheduler={kind: asha, metric: val/latent, mode: min}")
    assert "scheduler.mode: min, and the objective val/latent is to be max" in message
    message = fault(space, "scheduler={kind: asha, mode: min}")
    assert "give scheduler.metric with it" in message
    message = fault(space, TWO, "scheduler={kind: asha, metric: val/latnet, mode: min}")
    assert "scheduler.metric: no metric 'val/latnet' of a regression. Did you mean" in message


@pytest.mark.parametrize(
    ("scheduler", "compared"),
    [
        ("{kind: none}", ()),
        ("{kind: asha, metric: val/latent}", (Objective(metric="val/latent", mode="max"),)),
        ("{kind: asha, metric: val/commit, mode: min}", (Objective(metric="val/commit"),)),
        ("{kind: promotion, rungs: [1]}", BOTH),
    ],
)
def test_several_objectives_load_with_a_scheduler_that_can_compare(
    space: Path, scheduler: str, compared: tuple[Objective, ...]
) -> None:
    study = load_study(space, Regression(), [TWO, f"scheduler={scheduler}"])
    assert [goal.metric for goal in study.goals] == ["val/traj", "val/latent"]
    assert study.compared == compared
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objectives=[{metric: val/traj}]", "a single one is given as objective"),
        ("objectives=[{metric: val/traj}, {metric: val/traj}]", "of different metrics"),
        ("objectives=[{metric: val/traj}, {metirc: a}]", "Did you mean 'metric'"),
    ],
)
def test_objectives_that_are_not_several_are_refused(
    space: Path, change: str, message: str
) -> None:
    assert message in fault(space, change)


def test_one_objective_and_several_at_once_are_refused(space: Path) -> None:
    message = fault(space, TWO, "objective.metric=val/traj")
    assert "objective for one or objectives for several, not both" in message


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


NUMBERS = st.one_of(
    st.tuples(st.floats(1e-6, 1), st.floats(1.1, 1e6)).map(
        lambda t: Parameter(log_uniform=(t[0], t[0] * t[1]))
    ),
    st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(
        lambda t: Parameter(uniform=(t[0], t[0] + t[1]))
    ),
    st.tuples(st.integers(-9, 9), st.integers(1, 99)).map(
        lambda t: Parameter(int_uniform=(t[0], t[0] + t[1]))
    ),
)


@given(parameter=NUMBERS, share=st.floats(0, 1, exclude_max=True), steps=st.integers(2, 9))
def test_every_value_of_a_range_lies_in_it_and_rises_with_its_share(
    parameter: Parameter, share: float, steps: int
) -> None:
    assert parameter.at(0.0) == pytest.approx(parameter.range[0])
    assert parameter.at(share / 2) <= parameter.at(share)
    assert parameter.holds(parameter.at(share))
    ladder = parameter.ladder(steps)
    assert all(parameter.holds(value) for value in ladder)
    assert (ladder[0], ladder[-1]) == pytest.approx(parameter.range)
    assert list(ladder) == sorted(set(ladder))


def test_a_choice_is_shared_out_evenly() -> None:
    choice = Parameter(choice=(3, "all", True, -1))
    assert [choice.at((k + 0.5) / 4) for k in range(4)] == [3, "all", True, -1]
    assert choice.ladder(2) == (3, "all", True, -1)


@given(factor=st.floats(1.2, 5), grace=st.integers(1, 6), data=st.data())
def test_every_rung_is_passed_once_by_a_run_that_reports_every_epoch(factor, grace, data) -> None:
    asha = ASHA(grace_epochs=grace, reduction_factor=factor)
    passed = [asha.passed(after=epoch - 1, epoch=epoch) for epoch in range(1, 40)]
    assert [rung for rung in passed if rung is not None] == list(asha.before(40))
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    before = 0
    for gap in gaps:
        rung = asha.passed(after=before, epoch=before + gap)
        between = [r for r in asha.before(200) if before < r <= before + gap]
        assert rung == max(between, default=None)
        before += gap


def test_rungs_are_powers_of_the_factor_before_the_last_epoch() -> None:
    assert ASHA(grace_epochs=1, reduction_factor=3).before(27) == (1, 3, 9)
    assert ASHA(grace_epochs=2, reduction_factor=2).before(9) == (2, 4, 8)
    assert ASHA(grace_epochs=5).before(5) == ()
    assert ASHA(grace_epochs=1, reduction_factor=1.1).before(4) == (1, 2, 3)


def test_a_study_survives_its_own_json(space: Path) -> None:
    study = load_study(space, Regression())
    assert Study.model_validate(study.model_dump(mode="json")) == study
