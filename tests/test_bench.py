"""Recorded runs under our own decisions and under others' code."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner

from spinlock import cli
from spinlock.errors import ConfigError
from spinlock.search.bench import (
    by,
    choose_rungs,
    everything,
    measure,
    one_epoch_then_three,
    ours,
    pools,
)
from spinlock.search.bench_peers import ray_asha
from spinlock.search.check import load_study
from spinlock.search.forecast import forecast
from spinlock.search.outlook import beside
from spinlock.search.recorded import Recorded, Run, shipped
from spinlock.search.simulation import Ours, simulate
from spinlock.search.space import Objective, Study
from spinlock.search.trainables import TRAINABLES

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=TRAINABLES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    found = shipped(request.param)
    assert found is not None
    return found


def test_our_asha_spends_and_finds_what_rays_does_on_every_pool(recorded: Recorded) -> None:
    """Runs that end by themselves excepted, which Ray's would go on with."""
    sound = [run for run in recorded.half("test") if run.stop is None]
    for pool in pools(sound, 64, 3):
        found = [
            simulate(make(64, recorded.objective, recorded.epochs), pool, recorded.objective)
            for make in (ours({"kind": "asha"}), ray_asha)
        ]
        assert found[0] == found[1]


def test_training_everything_costs_everything_and_finds_the_best(recorded: Recorded) -> None:
    given = pools(recorded.half("choose"), 16, 4)
    (row,) = measure({"all": by(everything)}, given, recorded)
    assert (row.share, row.hits, row.regret) == (1.0, 4, 0.0)
    assert row.interval[0] < 1.0 == row.interval[1]


def test_one_epoch_and_the_best_three_is_just_that(recorded: Recorded) -> None:
    sound = [run for run in recorded.half("test") if run.stop is None]
    (pool,) = pools(sound, 32, 1)
    make = one_epoch_then_three(32, recorded.objective, recorded.epochs)
    found = simulate(make, pool, recorded.objective)
    assert found.epochs == 32 + 3 * (recorded.epochs - 1)
    order = sorted(pool, key=lambda run: run.history[1][recorded.objective.metric])
    assert found.best == min(run.best(recorded.objective) for run in order[:3])


@pytest.mark.parametrize("scheduler", ["asha", "promotion", "none"])
def test_a_nan_ends_its_trial_at_once_and_changes_no_decision_about_others(scheduler: str) -> None:
    def run(number: int, *, nan_from: int = 99) -> Run:
        rows = {
            epoch: {
                "val/traj": math.nan if epoch >= nan_from else 1.0 + number / epoch,
                "seconds": 1.0 + number / 7,
            }
            for epoch in range(1, 10)
        }
        return Run(number, 0, "test", rows)

    healthy = [run(number) for number in range(12)]
    sick = run(12, nan_from=1)
    make = ours({"kind": scheduler, **({"rungs": [2, 5]} if scheduler != "none" else {})})
    without = simulate(make(12, Objective(), 9), healthy, Objective(), workers=12)
    beside = simulate(make(13, Objective(), 9), [*healthy, sick], Objective(), workers=13)
    assert beside.nonfinite == 1
    assert (beside.epochs - 1, beside.best) == (without.epochs, without.best)


def test_rungs_are_chosen_on_the_half_for_choosing_alone(recorded: Recorded) -> None:
    chosen = choose_rungs(recorded, seeds=2, size=24)
    half = tuple(run for run in recorded.runs if run.half == "choose")
    blind = replace(recorded, runs=half)
    assert choose_rungs(blind, seeds=2, size=24) == chosen


def recorded_space(recorded: Recorded, **changes: object) -> Study:
    """A study of what was recorded, with a scheduler."""
    given = json.loads(recorded.facts["study"]) | {"trials": 24, "scheduler": {"kind": "promotion"}}
    files = {"data": {"path": "d.h5"}} | ({"tokenizer": "t"} if recorded.name == "noa" else {})
    return Study.model_validate(given | {"training": given["training"] | files} | changes)


def test_a_forecast_is_near_what_recorded_runs_in_any_order_spend(recorded: Recorded) -> None:
    study, trainable = recorded_space(recorded), TRAINABLES[recorded.name]
    expected = forecast(study, trainable, epochs=27)
    assert expected is not None
    played = [
        simulate(Ours(study, 27), pool, recorded.objective, workers=2)
        for pool in pools(recorded.half("test"), 24, 30)
    ]
    assert fmean(each.epochs for each in played) == pytest.approx(expected.epochs.mean, rel=0.15)
    assert fmean(e.seconds for e in played) == pytest.approx(expected.seconds.mean, rel=0.15)
    assert sum(expected.epochs.low <= e.epochs <= expected.epochs.high for e in played) >= 21


def test_a_sampler_that_learns_is_foretold_to_train_more(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It suggests better points as it goes, and the rungs let more of them on."""
    monkeypatch.setattr("spinlock.search.forecast._GAMES", 10)

    def told(searcher: str) -> float:
        study = recorded_space(recorded, searcher={"kind": searcher})
        found = forecast(study, TRAINABLES[recorded.name], epochs=27)
        assert found is not None
        return found.epochs.mean

    assert told("tpe") > 1.1 * told("random")


def test_equal_studies_are_foretold_equally_and_slower_machines_take_longer(
    recorded: Recorded,
) -> None:
    study, trainable = recorded_space(recorded, trials=12), TRAINABLES[recorded.name]
    found, again = (forecast(study, trainable, epochs=9) for _ in range(2))
    assert found is not None
    assert again is not None
    assert (found.epochs, found.seconds) == (again.epochs, again.seconds)
    points = study.sample(3)
    there = [(point, found.pace(point)) for point in points]
    twice = [(point, 2 * pace) for point, pace in there]
    fixed = beside(study.resources, study.trials, 0.5)
    assert found.wall(study, there, 0.5).mean == pytest.approx(fixed + found.seconds.mean)
    assert found.wall(study, twice, 0.5).mean == pytest.approx(fixed + 2 * found.seconds.mean)


def test_nothing_is_forecast_where_nothing_is_recorded_or_nothing_is_stopped() -> None:
    def ask(*changes: str) -> object:
        fixed = {"data.path": "d.h5", "tokenizer": "t", "loss.lambda_tokens": 0.0}
        path = ROOT / "search_spaces/latent.yaml"
        return forecast(
            load_study(path, TRAINABLES["noa"], changes, fixed=fixed), TRAINABLES["noa"], epochs=6
        )

    assert ask() is not None
    assert ask("objective.metric=val/tokens") is None
    assert ask("scheduler={kind: none}", "guards=[]") is None


def test_the_bench_prints_its_tables_and_draws_them(tmp_path) -> None:
    arguments = ["bench", "vqvae", "--seeds", "2", "--pool", "16", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.commands(), arguments)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "bench_vqvae.md").read_text()
    for method in ("train everything", "Ray's ASHA", "Optuna's median", "promotion, rungs chosen"):
        assert f"| {method} |" in page
    assert "| all of them |" in page
    assert (tmp_path / "bench_vqvae.png").read_bytes().startswith(b"\x89PNG")


def test_a_pool_larger_than_what_was_recorded_is_refused() -> None:
    done = CliRunner().invoke(cli.commands(), ["bench", "noa", "--pool", "999"])
    assert isinstance(done.exception, ConfigError)
    assert "the half for testing has 100 runs" in str(done.exception)
