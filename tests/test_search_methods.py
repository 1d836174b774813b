"""Every way of choosing points, by name."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from searching import Regression
from test_search_replay import PLAYED, search
from test_searcher_optuna import DEPENDENT, WIDE, agree, load, opened, play, suggestions

from spinlock.search.methods import QMC, Grid, Method
from spinlock.search.parameter import Parameter
from spinlock.search.replay import replay
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL

UNION, _ = get_args(Method)
KINDS = {method.model_fields["kind"].default: method for method in get_args(UNION)}
QUICK: dict[str, dict[str, Any]] = {
    "tpe": {"startup_trials": 4},
    "gp": {"startup_trials": 4},
    "nsga2": {"population": 4},
    "cmaes": {"population": 4},
}


def wanted(kind: str, of: Study = WIDE, **changes: Any) -> Study:
    """`of` searched by this method, without its choices and conditions if it takes none."""
    document = of.model_dump() | {"searcher": {"kind": kind, **QUICK.get(kind, {})}}
    if kind == "cmaes":
        ranges = {
            k: p | {"when": None} for k, p in document["space"].items() if p["choice"] is None
        }
        start = [{k: v for k, v in point.items() if k in ranges} for point in document["start"]]
        document |= {"space": ranges, "start": start}
    return Study.model_validate(document | changes)


@pytest.mark.parametrize("lost", ["nothing", "journal"])
@pytest.mark.parametrize("of", [WIDE, DEPENDENT], ids=["plain", "conditional"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_changes_no_suggestion_and_every_one_is_in_the_space(
    tmp_path: Path, kind: str, of: Study, lost: str
) -> None:
    straight, sampler = opened(tmp_path / "straight", wanted(kind, of))
    play(straight, sampler, 8)
    directory = tmp_path / "broken"
    for until in (1, 5, 8):
        found, sampler = opened(directory, wanted(kind, of), resume=until > 1)
        play(found, sampler, until)
        if lost == "journal":
            (directory / JOURNAL).unlink()
    assert suggestions(found) == suggestions(straight)
    space = found.ledger.study.space
    for point in suggestions(found):
        assert all(space[key].holds(value) for key, value in point.items())
        assert all((key in point) == p.active(point) for key, p in space.items())
    found, sampler = opened(directory, wanted(kind, of), resume=True)
    agree(found.ledger, load(directory))


@pytest.mark.parametrize("kind", KINDS)
def test_every_decision_is_derived_again_from_the_log(tmp_path: Path, kind: str) -> None:
    search(tmp_path, 3, sessions=2, study=wanted(kind, PLAYED))
    found = replay(tmp_path, {"regression": Regression()})
    assert (found.suggestions, found.differences) == (16, [])


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_model_finds_the_valley_better_than_its_random_start(tmp_path: Path, kind: str) -> None:
    """`play` is best at a learning rate of 10^-2.5."""
    found, sampler = opened(tmp_path, wanted(kind, start=[], seed=5))
    play(found, sampler, 20)
    off = [abs(math.log10(float(p["optimizer.lr"])) + 2.5) for p in suggestions(found)]
    assert sum(off[12:]) / 8 < sum(off[:4]) / 4


def test_a_grid_is_every_combination_once() -> None:
    grid, space = Grid(steps=3), dict(WIDE.space)
    size = grid.size(space)
    assert size == 3 * 3 * 3 * 3
    points = [grid.point(space, 0, number) for number in range(size)]
    assert len({tuple(point.items()) for point in points}) == size
    assert points[:9] != [grid.point(space, 1, number) for number in range(9)]


def test_more_trials_than_the_grid_has_points_are_refused() -> None:
    wanted("grid", trials=4**3 * 3 + len(WIDE.start), searcher={"kind": "grid", "steps": 4})
    with pytest.raises(ValueError, match="195 trials of a grid with 192 points"):
        wanted("grid", trials=197)
    many = {f"x{k}": Parameter(uniform=(0, 1)) for k in range(11)}
    assert "at most 1000000" in str(Grid().fault(many, 1))


def test_sobol_points_fill_every_half_of_every_setting_alike() -> None:
    """The first 2^m points of a Sobol sequence: half of them in each half (m >= 1)."""
    space = {f"x{k}": Parameter(uniform=(0, 1)) for k in range(5)}
    points = [QMC().point(space, 7, number) for number in range(16)]
    for key in space:
        assert sum(point[key] < 0.5 for point in points) == 8


@pytest.mark.parametrize("of", [WIDE, DEPENDENT], ids=["plain", "conditional"])
def test_several_objectives_are_bred(tmp_path: Path, of: Study) -> None:
    """NSGA-II is told of several objectives, of which no trial has intermediate values."""
    goals = [{"metric": "val/traj"}, {"metric": "val/commit"}]
    several = {"objective": None, "objectives": goals, "scheduler": {"kind": "none"}}
    found, sampler = opened(tmp_path, wanted("nsga2", of, **several))
    play(found, sampler, 14)
    children = {tuple(point.items()) for point in suggestions(found)[4:]}
    assert len(children) > 5, "a child may equal a parent"
    trials = load(tmp_path)
    assert all(trial.state.is_finished() for trial in trials)
    assert max(trial.system_attrs.get("NSGAIISampler:generation", 0) for trial in trials) > 0
