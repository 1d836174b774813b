"""Optuna's study in a database: the same search as with a journal, and no epoch rests on it."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from test_scheduler_rules import book, study
from test_searcher_optuna import WIDE, agree, play, suggestions

from spinlock.config import load
from spinlock.errors import ConfigError, SearchError
from spinlock.search.book import Book
from spinlock.search.events import read_events
from spinlock.search.ledger import EVENTS
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.storage import (
    JOURNAL,
    PASSWORD,
    connect,
    database_name,
    in_journal,
    reason,
    watched_by,
)

TRIALS = 14


def opened(directory: Path, *, resume: bool = False) -> tuple[Book, Sampler]:
    found = book(directory, WIDE, resume=resume)
    return found, Sampler.open(directory, found.ledger, url=url(directory))


def url(directory: Path) -> str:
    return f"sqlite:///{directory.parent}/studies.db"


def stored(found: Book, directory: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials as another process reads them from the database."""
    name = database_name(found.ledger)
    return optuna.load_study(study_name=name, storage=url(directory)).trials


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The search with a journal."""
    directory = tmp_path_factory.mktemp("journal")
    found = book(directory, WIDE)
    play(found, Sampler.open(directory, found.ledger), TRIALS)
    return found


@given(moves=st.lists(st.sampled_from(["enqueue", "ask", "tell"]), max_size=12))
def test_a_journal_finds_the_trials_that_wait_as_a_walk_over_all_does(moves: list[str]) -> None:
    with TemporaryDirectory() as directory:
        found = in_journal(Path(directory) / JOURNAL, book(Path(directory), WIDE).ledger)
        running = list[optuna.Trial]()
        for move in moves:
            if move == "enqueue":
                found.enqueue_trial({"x": 0.5})
            elif move == "ask":
                running.append(found.ask())
            elif running:
                found.tell(running.pop(), state=TrialState.FAIL)
            walked = [t for t in found.get_trials() if t.state == TrialState.WAITING]
            one = found._storage.get_all_trials(0, deepcopy=False, states=(TrialState.WAITING,))
            assert [t.number for t in one] == [t.number for t in walked]


@pytest.mark.parametrize("lost", ["nothing", "database", "trials"])
def test_a_search_in_a_database_suggests_what_one_in_a_journal_does(
    tmp_path: Path, straight: Book, lost: str
) -> None:
    other, sampler = opened(tmp_path / "other")  # a search of the same name in the same database
    play(other, sampler, 2)
    directory = tmp_path / "x"
    for until in (1, 6, TRIALS):
        found, sampler = opened(directory, resume=until > 1)
        play(found, sampler, until)
        if lost == "database":
            (tmp_path / "studies.db").unlink()
        elif lost == "trials":
            optuna.delete_study(study_name=database_name(found.ledger), storage=url(directory))
    assert suggestions(found) == suggestions(straight)
    found, sampler = opened(directory, resume=True)
    agree(found.ledger, stored(found, directory))
    if lost != "database":
        agree(other.ledger, stored(other, directory))


def test_a_database_that_stops_answering_costs_no_trial_and_is_mended_at_the_end(
    tmp_path: Path, straight: Book, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "x"
    found, sampler = opened(directory)
    play(found, sampler, 5)
    other = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    play(found, sampler, 8)
    assert sampler.lost
    assert "cannot be used ((sqlite3.OperationalError) database is locked)" in caplog.text
    other.execute("ROLLBACK")
    play(found, sampler, TRIALS)
    assert suggestions(found) == suggestions(straight)
    sampler.settle(directory, url=url(directory))
    agree(found.ledger, stored(found, directory))


def test_the_command_for_optunas_dashboard_names_the_study_that_there_is(tmp_path: Path) -> None:
    assert watched_by(tmp_path, None) == f"optuna-dashboard {tmp_path / 'optuna.journal'}"
    assert watched_by(tmp_path, "sqlite:////a b.db") == "optuna-dashboard 'sqlite:////a b.db'"


def test_a_journal_that_cannot_be_written_costs_no_trial(
    tmp_path: Path, straight: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = book(tmp_path, WIDE)
    sampler = Sampler.open(tmp_path, found.ledger)
    play(found, sampler, 5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    backend = optuna.storages.journal.JournalFileBackend
    monkeypatch.setattr(backend, "append_logs", full)
    play(found, sampler, TRIALS)
    assert suggestions(found) == suggestions(straight)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("sqlite:////nowhere/at/all/x.db", "unable to open database file"),
        ("nosuch://host/x", "nosuch"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_sentence(given: str, why: str) -> None:
    with pytest.raises(SearchError, match=rf"cannot be used: .*{why}.*\. No epoch is lost"):
        connect(given)


SECRETS = [
    "postgresql://me:hunter2@host/optuna",
    "postgresql://me:hunter2#or/so@host/optuna",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhunter2",
    "mysql+pymysql://me@host/optuna?password=hunter2",
    "postgresql://host/x?sslpassword=hunter2",
]


@pytest.mark.parametrize("given", SECRETS)
@pytest.mark.parametrize("by", ["file", "flag"])
def test_a_password_in_a_storage_is_refused_and_not_repeated(
    tmp_path: Path, given: str, by: str
) -> None:
    text = "name: x\ntrials: 1\nspace: {a: {uniform: [0, 1]}}\n"
    (tmp_path / "x.yaml").write_text(text + (f"storage: {given}\n" if by == "file" else ""))
    with pytest.raises(ConfigError, match=PASSWORD) as refused:
        load(Study, tmp_path / "x.yaml", [f"storage={given}"] if by == "flag" else [])
    assert "storage: A storage" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_password_from_the_environment_stands_in_no_log_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "hunter2")
    wanted = Study.model_validate(WIDE.model_dump() | {"storage": url(tmp_path / "x")})
    found = book(tmp_path / "x", wanted)
    play(found, Sampler.open(tmp_path / "x", found.ledger, url=wanted.storage), 2)
    assert "hunter2" not in (tmp_path / "x" / EVENTS).read_text()
    assert list(read_events(tmp_path / "x" / EVENTS))
    assert reason(ValueError("no user me:hunter2 here")) == "no user me:*** here"


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="URL of a database"):
        study(storage="optuna.db")
