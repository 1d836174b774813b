"""A setting with `when` is searched in the trials where its condition holds, and in no other."""

import itertools
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from searching import Regression, RegressionConfig, without_ray
from test_scheduler_rules import study
from test_searcher_optuna import opened, play, suggestions

from spinlock.errors import ConfigError
from spinlock.search import conditions
from spinlock.search.check import load_study
from spinlock.search.methods import QMC, Grid
from spinlock.search.noa import NOA
from spinlock.search.parameter import Between, Parameter, Scalar
from spinlock.search.preview import show_plan
from spinlock.search.replay import replay
from spinlock.search.report import table
from spinlock.search.space import Study
from spinlock.search.story import explain
from spinlock.search.tables import trials_table

RANGES = [
    {"choice": [True, False]},
    {"choice": [1, 2, "all"]},
    {"int_uniform": [2, 4]},
    {"uniform": [0.0, 1.0]},
    {"log_uniform": [0.1, 10.0]},
]


def asked_of(parent: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A condition that some value of this parent keeps."""
    (ends,) = parent.values()
    if "choice" in parent or "int_uniform" in parent:
        values = ends if "choice" in parent else [*range(ends[0], ends[1] + 1)]
        listed = st.lists(st.sampled_from(values), min_size=1, max_size=2)
        if "choice" in parent:
            return st.sampled_from(values) | listed
    middle = st.floats(*map(float, ends))
    return st.fixed_dictionaries({"min": middle}) | st.fixed_dictionaries({"max": middle}).filter(
        lambda bounds: "int_uniform" not in parent or bounds["max"] >= ends[0]
    )


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Parameter]:
    """Up to five settings in any order, each with up to two parents and no circle."""
    names = draw(st.permutations("abcde"))[: draw(st.integers(2, 5))]
    found: dict[str, Any] = {}
    for name in names:
        of = draw(st.lists(st.sampled_from([*found]), max_size=2, unique=True)) if found else []
        when = {p: draw(asked_of({k: v for k, v in found[p].items() if k != "when"})) for p in of}
        found[name] = draw(st.sampled_from(RANGES)) | ({"when": when} if when else {})
    return {k: Parameter.model_validate(found[k]) for k in draw(st.permutations(names))}


def kept(value: Scalar, condition: Any) -> bool:
    """Spelt out once more, so that the code is not its own judge."""
    if isinstance(condition, Between):
        low = float("-inf") if condition.min is None else condition.min
        high = float("inf") if condition.max is None else condition.max
        return type(value) is not str and type(value) is not bool and low <= value <= high
    listed = condition if isinstance(condition, tuple) else (condition,)
    return any((type(v) is bool, v) == (type(value) is bool, value) for v in listed)


def sound(point: dict[str, Scalar], space: dict[str, Parameter]) -> bool:
    """Whether a point has a value for exactly the settings whose conditions hold in it."""
    for key, parameter in space.items():
        asked = (parameter.when or {}).items()
        if (key in point) != all(p in point and kept(point[p], c) for p, c in asked):
            return False
    return all(space[key].holds(value) for key, value in point.items())


def possible(space: dict[str, Parameter], **changes: Any) -> Study:
    """A study of this space, in which each setting can be searched."""
    assume(not conditions.faults(space, {}))
    return study(space=space, start=[], **changes)


@settings(deadline=None)
@given(space=spaces(), seed=st.integers(0, 99))
def test_a_point_of_any_plan_has_the_settings_whose_conditions_hold(
    space: dict[str, Parameter], seed: int
) -> None:
    wanted = possible(space, seed=seed)
    points = [QMC().point(space, seed, number) for number in range(4)]
    for point in [*points, *wanted.sample(4), *wanted.extremes()]:
        assert sound(point, space)
        assert list(point) == [key for key in space if key in point]


@settings(deadline=None)
@given(space=spaces())
def test_every_extreme_of_every_setting_is_in_a_point_that_is_checked(
    space: dict[str, Parameter],
) -> None:
    wanted = possible(space)
    points = wanted.extremes()
    assert points[0] == wanted.corner
    for key, parameter in space.items():
        found = [repr(point[key]) for point in points if key in point]
        assert {*map(repr, parameter.extremes)} <= {*found}


@settings(deadline=None)
@given(space=spaces(), steps=st.integers(2, 3))
def test_a_grid_is_every_distinct_point_once(space: dict[str, Parameter], steps: int) -> None:
    ladders = [parameter.ladder(steps) for parameter in space.values()]
    every = {
        repr(conditions.settled(space, dict(zip(space, values, strict=True))))
        for values in itertools.product(*ladders)
    }
    grid = Grid(steps=steps)
    assert grid.size(space) == len(every)
    assert {repr(grid.point(space, 0, number)) for number in range(len(every))} == every
    assert grid.fault(space, len(every)) is None
    assert grid.fault(space, len(every) + 1) is not None


@settings(deadline=None)
@given(space=spaces())
def test_a_setting_is_called_impossible_only_if_no_point_has_it(
    space: dict[str, Parameter],
) -> None:
    told = [path[1] for path, _ in conditions.faults(space, {})]
    for shares in itertools.product((0.0, 0.5, 0.99), repeat=len(space)):
        values = zip(space.items(), shares, strict=True)
        whole = {key: parameter.at(share) for (key, parameter), share in values}
        assert not {*told} & conditions.settled(space, whole).keys()


@settings(max_examples=15, deadline=None)
@given(space=spaces(), kind=st.sampled_from(["tpe", "nsga2", "random"]))
def test_a_sampler_asks_for_the_settings_whose_conditions_hold(
    space: dict[str, Parameter], kind: str
) -> None:
    space["optimizer.lr"] = Parameter(log_uniform=(1e-4, 1e-1))  # which `play` is ruled by
    method = {"kind": kind} | ({"startup_trials": 3} if kind == "tpe" else {})
    with TemporaryDirectory() as directory:
        found, sampler = opened(Path(directory), possible(space, searcher=method))
        play(found, sampler, 8)
    assert all(sound(point, space) for point in suggestions(found))


EIGHT = "{batch_size: 8}"
SPACE = """\
name: lines
trials: 4
training:
  epochs: 3
space:
  batch_size: {choice: [4, 8]}
  seed: {int_uniform: [0, 9]}
  optimizer.lr: {log_uniform: [1e-4, 1e-1], when: {batch_size: 8}}
  loss.lambda_commit:
    uniform: [0, 1]
    when:
      optimizer.lr: {max: 0.01}
      seed: [1, 2]
start:
  - {batch_size: 8, optimizer.lr: 0.005, seed: 2, loss.lambda_commit: 1}
  - {batch_size: 4, seed: 3}
  - {seed: 3}
"""


def loaded(directory: Path, old: str = "", new: str = "", *overrides: str) -> Study:
    assert old in SPACE
    (directory / "space.yaml").write_text(SPACE.replace(old, new, 1))
    return load_study(directory / "space.yaml", Regression(), overrides)


def test_conditions_are_read_and_survive_json(tmp_path: Path) -> None:
    wanted = loaded(tmp_path)
    assert wanted.space["loss.lambda_commit"].when == {
        "optimizer.lr": Between(max=0.01),
        "seed": (1, 2),
    }
    assert Study.model_validate(wanted.model_dump(mode="json")) == wanted
    assert Study.model_validate_json(wanted.model_dump_json()) == wanted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (EIGHT, "{batch_siz: 8}", r":8: space.optimizer.lr.when.batch_siz: .*mean 'batch_size'"),
        (EIGHT, "{epochs: 8}", r":8: space.optimizer.lr.when.epochs: .*fixed to 3 under training"),
        (EIGHT, "{batch_size: 16}", r":8: .*batch_size is never 16, but \(4, 8\)"),
        (EIGHT, "{batch_size: true}", r":8: .*is never True"),
        (EIGHT, "{batch_size: {min: 9}}", r":8: .*is never at least 9"),
        (EIGHT, "{batch_size: {min: 9, max: 8}}", r":8: .*Min 9 is above max 8"),
        (EIGHT, "{batch_size: {}}", r":8: .*Give min, max, or both"),
        (EIGHT, "{batch_size: {mn: 2}}", r":8: .*no such key. Did you mean 'min'"),
        (EIGHT, "{batch_size: null}", r":8: .*Expected a value, a list of values, or {min"),
        (EIGHT, "{batch_size: []}", r":8: .*at least 1 item"),
        (EIGHT, "{loss.lambda_commit: {min: 0}}", r": a circle: (\S+) needs \S+ needs \1. Leave"),
        (EIGHT, "{optimizer.lr: {min: 0}}", r":8: .*circle: optimizer.lr needs optimizer.lr"),
        ("seed: [1, 2]", "seed: [1, 12]", r":13: space.loss.lambda_commit.when.seed: .*never 12"),
        ("seed: [1, 2]", "batch_size: 4", r":11: space.loss.lambda_commit.when: .*never be sea"),
        ("{max: 0.01}", "0.01", r":12: .*lr: no single value of a range.*Give bounds"),
        ("epochs: 3", "optimizer: {lr: 3}", r":8: .*lr: searched here and fixed to 3 under tr"),
        ("size: 4, seed: 3", "size: 4, optimizer.lr: 0.01",
         r":16: start.1.optimizer.lr: .*when batch_size is 8, and here batch_size is 4. Leave it"),
        ("size: 4, seed: 3", "size: 4, loss.lambda_commit: 1, seed: 1",
         r":16: start.1.loss.lambda_commit: .*here optimizer.lr is not searched. Leave it out"),
        ("0.005, seed: 2", "0.005, seed: 3",
         r":15: start.0.loss.lambda_commit: .*seed is 1 or 2, and here seed is 3"),
        ("{seed: 3}", "{seed: 3, optimizer.lr: 0.01}",
         r":17: start.2.optimizer.lr: .*batch_size is not given. Give both"),
        ("optimizer.lr: 0.005, seed: 2, ", "",
         r":15: start.0: optimizer.lr is not given, and is searched here: batch_size is 8"),
        (", loss.lambda_commit: 1}", "}", r":15: start.0: loss.lambda_commit is not given"),
        ("uniform: [0, 1]", "uniform: [-1, 1]", r":9: space.loss.lambda_commit: .*Found -1"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_condition_is_answered_with_file_line_and_what_to_do(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, old, new)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_a_grid_of_a_faulty_space_is_answered_with_the_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a circle"):
        loaded(tmp_path, EIGHT, "{loss.lambda_commit: {min: 0}}", "searcher.kind=grid")


def test_a_metric_that_only_some_trials_report_is_no_objective(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "name: t\ntrials: 2\nobjective: {metric: val/ic}\n"
        "training: {data: {path: d.h5}, tokenizer: v}\n"
        "space:\n  batch_size: {choice: [4, 8]}\n"
        "  loss.lambda_ic: {uniform: [0, 1], when: {batch_size: 8}}\n"
    )
    told = "objective.metric: val/ic, which runs report that have loss.lambda_ic. Search it without"
    with pytest.raises(ConfigError, match=told):
        load_study(path, NOA())


def test_a_setting_that_is_not_searched_is_at_its_default_and_shown_nowhere(
    tmp_path: Path,
) -> None:
    """A search from file to tables, in this process."""
    wanted = loaded(tmp_path, "trials: 4", "trials: 9")
    ledger = without_ray(wanted, tmp_path / "search")
    without = [t for t in ledger.trials.values() if "optimizer.lr" not in t.parameters]
    assert 0 < len(without) < 9
    column = trials_table(ledger).column("param/optimizer.lr").to_pylist()
    shown = drawn(table(ledger, [], epochs=3, width=100))
    for number, trial in ledger.trials.items():
        rate = trial.parameters.get("optimizer.lr")
        assert (rate is None) == (trial.parameters["batch_size"] == 4)
        assert column[number] == rate
        assert ("optimizer.lr" in explain(ledger, number)[1]) == (rate is not None)
        (row,) = re.findall(rf"^ *\*?{number} .*$", shown, re.MULTILINE)
        assert len(row.split("/3")[0].split()) == 2 + len(trial.parameters)
        config = RegressionConfig.model_validate(wanted.configuration(trial.parameters))
        assert config.optimizer.lr == (0.05 if rate is None else rate)
    assert replay(tmp_path / "search", {"regression": Regression()}).differences == []


def test_a_setting_that_no_trial_had_is_a_column_of_nulls(tmp_path: Path) -> None:
    wanted = loaded(
        tmp_path, "  - {batch_size: 8, optimizer.lr: 0.005, seed: 2, loss.lambda_commit: 1}\n"
    )
    ledger = without_ray(wanted.model_copy(update={"trials": 1}), tmp_path / "search")
    assert trials_table(ledger).column("param/loss.lambda_commit").to_pylist() == [None]


def test_the_dry_run_shows_conditions_and_points_that_keep_them(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    show_plan(console, loaded(tmp_path), Regression(), samples=8)
    shown = console.export_text()
    assert "when:" in shown
    assert shown.count("when: {batch_size: 8}") == 1
    for line in re.findall("sample .*", shown):
        assert ("optimizer.lr" in line) == ("batch_size 8" in line)
    training, _ = shown.split("space:")
    assert "lr:" not in training, "what is searched is not also said to be fixed"


def drawn(shown: Table) -> str:
    console = Console(record=True, width=100)
    console.print(shown)
    return console.export_text()
