"""A search with several objectives: Optuna hears the truth, tables and summary show the front."""

import math
from io import StringIO
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from rich.console import Console
from searching import Regression
from test_scheduler_rules import book, study
from test_searcher_optuna import load

from spinlock.errors import SearchError
from spinlock.search import report, summary
from spinlock.search.book import Book
from spinlock.search.events import State
from spinlock.search.front import draw_front, front_history
from spinlock.search.ledger import read_ledger
from spinlock.search.ranking import leaders
from spinlock.search.results import best
from spinlock.search.rules import Stop
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL
from spinlock.search.tables import write_tables

TWO = study(
    objectives=[
        {"metric": "val/traj", "mode": "min"},
        {"metric": "quality/utilization", "mode": "max"},
    ],
    scheduler={"kind": "asha", "metric": "val/traj", "grace_epochs": 3},
    space={
        "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
        "loss.lambda_commit": {"uniform": [0, 1]},
    },
    start=[{"optimizer.lr": 0.01, "loss.lambda_commit": 0.5}],
    searcher={"kind": "tpe", "startup_trials": 4},
)


def finish(found: Book, sampler: Sampler, number: int) -> None:
    """A trial of any fate: every fifth goes NaN, every sixth climbs, the eighth crashes."""
    trial = found.ledger.trials[number]
    weight = float(trial.parameters["loss.lambda_commit"])
    for epoch in range(trial.epochs + 1, 10):
        metrics = {
            "val/traj": (1 - weight) ** 2 + 0.1 / epoch,
            "quality/utilization": (1 - weight) * (1 - 0.1 / epoch),
            "val/commit": 0.1 * (3.0**epoch if number % 6 == 5 else 1),
        }
        stop = None
        if number % 5 == 3 and epoch == 2:
            metrics, stop = {"val/traj": math.nan}, Stop("nonfinite", "val/traj is nan at 2")
        if number == 7:
            found.fail(number, "ActorDiedError: killed")
        else:
            found.report(number, epoch, metrics, stop)
        sampler.tell(found.ledger.trials[number])
        if trial.verdict is not None:
            return


def played(directory: Path, trials: int, *, resume: bool = False, wanted: Study = TWO) -> Book:
    found = book(directory, wanted, resume=resume)
    sampler = Sampler.open(directory, found.ledger)
    while len(found.ledger.trials) < trials:
        number = len(found.ledger.trials)
        found.suggested(sampler.ask(number))
        finish(found, sampler, number)
    return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    played(directory, 24).close()
    return directory


def test_every_trial_ends_in_optuna_as_it_ended_here_with_a_value_per_objective(
    searched: Path,
) -> None:
    ledger, theirs = read_ledger(searched), load(searched)
    states = {str(t.state()) for t in ledger.trials.values()}
    assert states == {"COMPLETED", "PRUNED", "GUARDED", "INFEASIBLE", "FAILED"}
    for ours, told in zip(ledger.trials.values(), theirs, strict=True):
        verdict = ours.verdict
        assert verdict is not None
        assert told.params == ours.parameters
        assert told.user_attrs["reason"] == verdict.sentence
        assert told.state.name == {"COMPLETED": "COMPLETE", "FAILED": "FAIL"}.get(
            verdict.state, "PRUNED"
        )
        assert not told.intermediate_values, "Optuna has none with several objectives"
        at = ours.best(ledger.study.goals)
        if verdict.state == State.COMPLETED:
            assert at is not None
            assert told.values == list(at[1])
            assert told.user_attrs["best_epoch"] == at[0]
        else:
            assert told.values is None
        violated = {name for name, value in told.constraints.items() if value > 0}
        sick = verdict.state in (State.GUARDED, State.INFEASIBLE)
        assert violated == ({verdict.rule} if sick else set())


def test_the_front_is_optunas_own(searched: Path) -> None:
    ledger = read_ledger(searched)
    backend = optuna.storages.journal.JournalFileBackend(str(searched / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    theirs = optuna.load_study(study_name="rules", storage=storage).best_trials
    front = {trial.number for trial in leaders(ledger)}
    assert front == {trial.number for trial in theirs}
    assert len(front) > 1


def test_the_front_grows_and_its_last_is_that_of_the_search(searched: Path, tmp_path: Path) -> None:
    ledger = read_ledger(searched)
    history = front_history(ledger)
    assert {*history[-1].trials} == {trial.number for trial in leaders(ledger)}
    volumes = [front.hypervolume for front in history]
    assert volumes == sorted(volumes)
    assert 0 < volumes[0] < volumes[-1] <= 1
    epochs = [front.epochs for front in history]
    assert epochs == sorted(epochs)
    assert epochs[-1] <= ledger.epochs == sum(t.epochs for t in ledger.trials.values())
    assert len({front.trials for front in history}) == len(history)
    write_tables(ledger, tmp_path)
    table = pq.read_table(tmp_path / "front.parquet").to_pylist()
    assert [tuple(row["trials"]) for row in table] == [front.trials for front in history]
    draw_front(ledger, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    lines = summary.summary(ledger, epochs=9)
    assert any(line.startswith(f"hypervolume  {volumes[-1]:.3f}") for line in lines)


@pytest.mark.parametrize("lost", ["nothing", "journal"])
def test_an_interrupted_search_suggests_what_an_undisturbed_one_does(
    searched: Path, tmp_path: Path, lost: str
) -> None:
    for until in (1, 5, 9, 14):
        found = played(tmp_path, until, resume=until > 1)
        if lost == "journal":
            (tmp_path / JOURNAL).unlink()
    straight = read_ledger(searched).trials
    for number, trial in found.ledger.trials.items():
        assert trial.parameters == straight[number].parameters


def test_a_space_with_a_wall_is_left_alone_with_several_objectives_too(tmp_path: Path) -> None:
    """PRUNED with a constraint and no value: TPE turns away, where NSGA-II would see nothing."""
    wall = study(
        objectives=[{"metric": "val/traj"}, {"metric": "quality/utilization", "mode": "max"}],
        scheduler={"kind": "none"},
        space={"batch_size": {"int_uniform": [1, 100]}},
        searcher={"kind": "tpe", "startup_trials": 8},
    )
    found = book(tmp_path, wall, reporting=[1])
    sampler = Sampler.open(tmp_path, found.ledger)
    outside = []
    for number in range(40):
        trial = found.suggested(sampler.ask(number))
        size = int(trial.parameters["batch_size"])
        outside.append(size > 50)
        if size > 50:
            found.report(number, 1, {}, Stop("memory", "one sample does not fit"))
        else:
            both = {"val/traj": 1 - size / 100, "quality/utilization": size / 100}
            found.report(number, 1, both, None)
        sampler.tell(trial)
    assert sum(outside[20:]) <= 14
    assert [t.state for t in load(tmp_path)].count(TrialState.RUNNING) == 0


def test_the_tables_mark_the_front(searched: Path) -> None:
    ledger = read_ledger(searched)
    write_tables(ledger, searched)
    rows = pq.read_table(searched / "trials.parquet").to_pylist()
    front = {trial.number for trial in leaders(ledger)}
    assert {row["trial"] for row in rows if row["leads"]} == front
    assert all(row["value"] is None for row in rows)
    done = next(row for row in rows if row["state"] == "COMPLETED")
    history = ledger.trials[done["trial"]].history[done["best_epoch"]]
    assert done["best/quality/utilization"] == history["quality/utilization"]


def test_the_summary_lists_the_front_with_every_objective(searched: Path) -> None:
    ledger = read_ledger(searched)
    lines = summary.summary(ledger, epochs=9)
    shown = [line for line in lines if line.startswith("front trial ")]
    assert len(shown) == len(leaders(ledger))
    assert any(line.startswith("start trial 0: val/traj 0.2611") for line in lines)
    assert all("val/traj 0." in line and "quality/utilization 0." in line for line in shown)
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(report.table(ledger, Regression.columns, epochs=9, width=200))
    starred = [line for line in captured.get().splitlines() if line.lstrip().startswith("*")]
    assert len(starred) == len(shown)


@pytest.mark.parametrize("width", [70, 80, 90, 200])
def test_a_table_shows_state_and_metrics_whatever_else_fits(searched: Path, width: int) -> None:
    ledger = read_ledger(searched)
    console = Console(width=width, file=StringIO())
    with console.capture() as captured:
        console.print(report.table(ledger, Regression.columns, epochs=9, width=width))
    text = captured.get()
    assert "PRUNED asha" in text
    assert "utilization" in text
    assert "commit" in text
    assert ("More settings are in the summary" in text) == (width <= 80)


def test_there_is_no_single_best_and_any_trial_can_be_chosen(searched: Path) -> None:
    front = leaders(read_ledger(searched))
    with pytest.raises(SearchError, match=f"no single best trial.*--trial: {front[0].number}, "):
        best(searched)
    chosen = best(searched, trial=front[1].number)
    assert chosen.trial == front[1].number
    assert chosen.scores == (
        chosen.metrics["val/traj"],
        chosen.metrics["quality/utilization"],
    )
    assert chosen.checkpoint.name == f"{chosen.epoch:05d}"
