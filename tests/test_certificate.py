"""Guards are held against recorded runs, and the shipped ones are safe on the half for testing."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from spinlock.errors import ConfigError
from spinlock.search.certificate import Certificate, certify, objection
from spinlock.search.check import load_study
from spinlock.search.recorded import SHIPPED, Recorded, Run, read_recorded, shipped
from spinlock.search.space import Objective
from spinlock.search.trainables import TRAINABLES
from spinlock.training.guards import CommitClimb, Divergence, Guard

ROOT = Path(__file__).parents[1]
SPACES = {
    "latent.yaml": "noa",
    "state.yaml": "noa",
    "provoking.yaml": "noa",
    "vqvae.yaml": "vqvae",
}


def recorded(name: str) -> Recorded:
    found = shipped(name)
    assert found is not None
    return found


def guards(space: str) -> list[Guard]:
    kind = TRAINABLES[SPACES[space]]
    fixed = {"data.path": "d.h5", **({"tokenizer": "t"} if kind.name == "noa" else {})}
    return list(load_study(ROOT / "search_spaces" / space, kind, defaults=fixed).guards)


@pytest.mark.parametrize("space", SPACES)
def test_a_shipped_guard_stops_none_of_the_best_tenth_of_the_test_half(space: str) -> None:
    for guard in guards(space):
        told = objection(SPACES[space], guard)
        assert (told is None) != guard.force, told


@pytest.mark.parametrize(("space", "least"), [("latent.yaml", 0.12), ("vqvae.yaml", 0.10)])
def test_the_shipped_guards_together_are_safe_and_worth_their_while(
    space: str, least: float
) -> None:
    runs = recorded(SPACES[space])
    found = certify(guards(space), runs.half("test"), runs.objective)
    assert found.sound
    assert found.saved >= least * found.epochs


@pytest.mark.parametrize("name", TRAINABLES)
def test_what_is_shipped_is_what_was_recorded(name: str) -> None:
    whole, slim = (
        pq.read_table(place / f"{name}.parquet") for place in (ROOT / "benchmarks/curves", SHIPPED)
    )
    assert whole.select(slim.column_names).to_pandas().equals(slim.to_pandas())
    runs = recorded(name)
    assert len({run.configuration for run in runs.runs}) >= 192
    assert sum(run.seed == 1 for run in runs.runs) >= 19
    assert {run.stop.kind for run in runs.runs if run.stop} >= {"nonfinite", "memory"}
    both = [{run.configuration for run in runs.half(half)} for half in ("choose", "test")]
    assert not both[0] & both[1]


def test_a_rule_is_judged_by_the_runs_that_it_would_have_stopped_before_their_end() -> None:
    def run(number: int, *values: float) -> Run:
        rows = {epoch: {"val/traj": value} for epoch, value in enumerate(values, start=1)}
        return Run(number, 0, "test", rows)

    runs = [
        run(0, 1.0, 0.1, 0.9, 0.05),  # the best, and stopped in between
        run(1, 1.0, 0.5, 0.4, 0.3),
        run(2, 0.2, 0.9, 0.9, 0.9),
        run(3, 0.2, 0.2, 0.2, 0.9),  # at its last epoch: nothing is saved
    ]
    found = certify([Divergence(factor=3)], runs, Objective())
    assert found == Certificate(runs=4, top=1, stopped_top=1, stopped=2, epochs=16, saved=3)
    assert not found.sound


@given(top=st.integers(1, 40), stopped=st.integers(0, 40))
def test_the_bound_is_the_share_at_which_so_few_stops_are_a_chance_of_one_in_twenty(
    top: int, stopped: int
) -> None:
    stopped = min(stopped, top)
    bound = Certificate(top, top, stopped, stopped, 1, 0).bound
    assert bound >= stopped / top
    if stopped < top:
        assert binom.cdf(stopped, top, bound) == pytest.approx(0.05, rel=1e-6)


def test_a_naive_climb_of_a_vqvaes_raw_commitment_gets_no_certificate() -> None:
    told = objection("vqvae", CommitClimb(metric="val/commitment"))
    assert told is not None
    assert "stops good runs" in told


def test_a_guard_on_what_was_never_recorded_has_no_certificate() -> None:
    told = objection("noa", Divergence(metric="val/tokens"))
    assert told is not None
    assert "no runs of a noa of val/tokens are recorded" in told


@pytest.mark.parametrize("text", [b"", b"PAR1 no more"])
def test_a_file_that_holds_no_runs_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(text)
    with pytest.raises(ConfigError, match=r"x\.parquet: no recorded runs"):
        read_recorded(tmp_path / "x.parquet")
