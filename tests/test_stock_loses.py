"""What stock Ray loses of a search and this one keeps, on the same losses.

Four trials are sound, the fifth is NaN, and the sixth, the worst, fails once and is taken up again
after a restart. Stock is a whole search by plain Tune, taken up by `Tuner.restore`. Ours are the
log, the rules and the sampler of a search, taken up from the log; tests/test_faults.py and
tests/test_resume_killed_driver.py kill whole ones.
"""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from test_scheduler_rules import book, metrics, study
from test_searcher_optuna import load

from spinlock.search import cluster
from spinlock.search.events import State
from spinlock.search.sampler import Sampler
from spinlock.search.space import Resources

EPOCHS = 9
LOSSES = (4.0, 3.0, 2.0, 1.0, math.nan, 9.0)
NAN, WORST = 4, 5


class Search(NamedTuple):
    """How many epochs each trial trained in its last attempt, and what Optuna has of it."""

    epochs: dict[int, int]
    states: dict[int, TrialState]


def constant(config: dict[str, Any], once: Path) -> None:
    """Reports its trial's loss after every epoch."""
    number = config["number"]
    if number == WORST and not once.exists():
        once.touch()
        raise RuntimeError("once")
    for epoch in range(1, EPOCHS + 1):
        tune.report({"loss": LOSSES[number], "epoch": epoch, "number": number})


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Plain Tune with its ASHA and OptunaSearch."""
    directory = tmp_path_factory.mktemp("stock")
    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(directory / "journal"))
    )
    options = {"metric": "loss", "mode": "min"}
    search = OptunaSearch(
        points_to_evaluate=[{"number": number} for number in range(len(LOSSES))],
        storage=journal,
        study_name="stock",
        **options,
    )
    training = partial(constant, once=directory / "once")
    with cluster.connect(Resources(execution="in_process", concurrent=1), dashboard=False):
        tune.Tuner(
            training,
            param_space={"number": tune.randint(0, len(LOSSES))},
            tune_config=tune.TuneConfig(
                num_samples=len(LOSSES),
                max_concurrent_trials=1,
                reuse_actors=True,
                search_alg=search,
                scheduler=ASHAScheduler(max_t=EPOCHS, reduction_factor=3, **options),
            ),
            run_config=tune.RunConfig(name="x", storage_path=str(directory), verbose=0),
        ).fit()
        restored = tune.Tuner.restore(str(directory / "x"), training, resume_errored=True)
        results = [result.metrics for result in restored.fit()]
    trials = optuna.load_study(study_name="stock", storage=journal).trials
    return Search(
        {result["number"]: result["epoch"] for result in results},
        {trial.params["number"]: trial.state for trial in trials},
    )


@pytest.fixture
def ours(tmp_path: Path) -> Search:
    """The same trials in our log, judged by our rules, told to Optuna by our sampler."""
    wanted = study(trials=len(LOSSES), retries=1)
    found = book(tmp_path, wanted)
    sampler = Sampler.open(tmp_path, found.ledger)
    attempted = Counter[int]()
    for number, loss in enumerate(LOSSES):
        trial = found.suggested(sampler.ask(number))
        found.started(number)
        if number == WORST:
            found.crashed(number, "RuntimeError: once")
            found = book(tmp_path, wanted, resume=True)
            sampler = Sampler.open(tmp_path, found.ledger)
            trial = found.ledger.trials[number]
            found.started(number)
        for epoch in range(1, EPOCHS + 1):
            attempted[number] = epoch
            if found.report(number, epoch, metrics(loss), None) is not None:
                break
        sampler.tell(trial)
    assert found.ledger.trials[WORST].state() == State.PRUNED
    return Search(dict(attempted), {trial.number: trial.state for trial in load(tmp_path)})


@pytest.mark.slow
def test_rungs_are_known_after_a_restart(stock: Search, ours: Search) -> None:
    assert stock.epochs[WORST] == EPOCHS, "to an empty rung the worst is the best"
    assert ours.epochs[WORST] == 1


@pytest.mark.slow
def test_a_trial_that_is_not_finite_is_stopped(stock: Search, ours: Search) -> None:
    assert stock.epochs[NAN] == EPOCHS
    assert ours.epochs[NAN] == 1


@pytest.mark.slow
def test_optuna_hears_of_every_end(stock: Search, ours: Search) -> None:
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert stock.states[NAN] == TrialState.RUNNING
    assert stock.states[WORST] == TrialState.FAIL, "though it was taken up again, and completed"
    assert [*ours.states.values()] == [complete] * 4 + [pruned] * 2
