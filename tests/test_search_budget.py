"""A search begins no trial beyond its budget, finishes those under way, and can be given more."""

from pathlib import Path
from typing import Any

from searching import without_ray
from test_scheduler_rules import book, metrics, study

from spinlock.search.book import Book
from spinlock.search.ledger import read_ledger
from spinlock.search.sampler import Sampler
from spinlock.search.searcher import BookSearcher
from spinlock.search.space import Study
from spinlock.search.summary import summary


def wanted(**budget: Any) -> Study:
    return study(
        trials=12,
        budget=budget,
        scheduler={"kind": "none"},
        training={"epochs": 4},
        space={"optimizer.lr": {"log_uniform": [1e-3, 1e-1]}},
        searcher={"kind": "random"},
        start=[],
        guards=[],
    )


def opened(directory: Path, study: Study, *, resume: bool = False) -> Book:
    return book(directory, study, resume=resume, reporting=range(1, 5))


def test_no_trial_begins_once_the_epochs_are_trained(tmp_path: Path) -> None:
    ledger = without_ray(wanted(epochs=10), tmp_path)
    assert sum(trial.epochs for trial in ledger.trials.values()) == 12, "three whole trials"
    assert ledger.sessions[-1].closed == "finished"
    (line,) = [line for line in summary(ledger, epochs=4) if line.startswith("budget")]
    assert "12 epochs of 10" in line


def test_a_spent_budget_can_be_raised_on_resume(tmp_path: Path) -> None:
    without_ray(wanted(epochs=10), tmp_path)
    found = opened(tmp_path, wanted(epochs=13), resume=True)
    assert found.ledger.left == 9
    found.close()
    assert read_ledger(tmp_path).left == 9
    assert read_ledger(tmp_path).sessions[-1].closed == "interrupted"


def test_hours_are_those_of_all_sessions(tmp_path: Path) -> None:
    without_ray(wanted(hours=1), tmp_path)
    ledger = read_ledger(tmp_path)
    assert ledger.spent is None
    for session in ledger.sessions:
        session.last += 1800
    assert ledger.spent is None
    ledger.sessions[0].last += 1801
    assert ledger.spent is not None
    assert "hours of 1" in ledger.spent
    assert ledger.left == 0


def test_trials_under_way_are_handed_out_again_whatever_was_spent(tmp_path: Path) -> None:
    found = opened(tmp_path, wanted(epochs=2))
    sampler = Sampler.open(tmp_path, found.ledger)
    searcher = BookSearcher(found, sampler, concurrent=2, assign=lambda t: {"trial": t.number})
    assert searcher.suggest("a") == {"trial": 0}
    for epoch in (1, 2):
        found.report(0, epoch, metrics(1.0), None)
    assert searcher.suggest("b") is None, "the first may need another attempt"
    found.close()
    found = opened(tmp_path, wanted(epochs=2), resume=True)
    sampler = Sampler.open(tmp_path, found.ledger)
    searcher = BookSearcher(found, sampler, concurrent=2, assign=lambda t: {"trial": t.number})
    assert searcher.suggest("c") == {"trial": 0}
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("c", {})
    assert searcher.suggest("e") == BookSearcher.FINISHED
    found.close()


def test_the_budget_stands_in_the_log_of_each_session(tmp_path: Path) -> None:
    found = opened(tmp_path, wanted(epochs=5, hours=2.5))
    found.close()
    assert read_ledger(tmp_path).study.budget.hours == 2.5
