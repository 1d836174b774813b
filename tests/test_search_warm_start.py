"""What earlier searches tell one that begins: who of their trials fits, and that the log has it."""

import re
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searching import Regression
from test_scheduler_rules import metrics, study
from test_search_launch import SPACE as TINY
from test_search_launch import launch
from test_searcher_optuna import opened, play, suggestions

from spinlock.config import read
from spinlock.errors import SearchError
from spinlock.search.book import Book
from spinlock.search.events import Event, EventLog, Prior, StudyOpened, read_events
from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.ranking import TRIED_FIRST, tried_first
from spinlock.search.replay import replay
from spinlock.search.rules import Stop
from spinlock.search.sampler import Sampler
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL
from spinlock.search.story import explain
from spinlock.search.study import run
from spinlock.search.warm_start import Earlier, earlier

LR: dict[str, Any] = {"log_uniform": [1e-4, 1e-1]}
SPACE = {"optimizer.lr": LR, "loss.lambda_commit": {"uniform": [0, 1]}}
KIND: dict[str, Any] = {"kind": "tpe", "startup_trials": 4}
LEARNING = [
    KIND,
    {"kind": "gp", "startup_trials": 4},
    {"kind": "nsga2", "population": 4},
    {"kind": "cmaes", "population": 4},
]


def wanted(*places: Path, **changes: Any) -> Study:
    return study(**{"space": SPACE, "searcher": KIND, "warm_start": places, **changes})


@pytest.fixture
def past(tmp_path: Path) -> Path:
    """An earlier search: 16 trials of every fate, of which number 7 failed."""
    return searched(tmp_path / "past")


def searched(place: Path, **changes: Any) -> Path:
    found, sampler = opened(place, wanted(seed=3, **changes))
    play(found, sampler, 16)
    found.close()
    return place


def begun(
    directory: Path, wanted: Study, *, resume: bool = False, facts: dict[str, Any] | None = None
) -> tuple[Book, Sampler]:
    def priors() -> list[Prior]:
        return [prior for each in earlier(wanted, Regression()) for prior in each.priors]

    found = Book.open(
        directory,
        wanted,
        trainable="regression",
        facts=facts or {},
        reporting=lambda _: range(1, 10),
        resume=resume,
        priors=priors,
    )
    return found, Sampler.open(directory, found.ledger)


def fits(*places: Path, **changes: Any) -> Earlier:
    (found,) = earlier(wanted(*places, **changes), Regression())
    return found


def test_every_trial_fits_its_own_space_but_those_that_tell_nothing(past: Path) -> None:
    found, there = fits(past), read_ledger(past)
    assert found.sentences == (f"15 of 16 trials of {past} fit: 1 failed.",)
    for prior in found.priors:
        trial = there.trials[prior.trial]
        assert (prior.parameters, prior.verdict) == (trial.parameters, trial.verdict)
        assert repr(prior.history) == repr(
            {e: {"val/traj": row["val/traj"]} for e, row in trial.history.items()}
        )


def test_a_narrower_range_leaves_out_what_lies_outside(past: Path) -> None:
    space = {"optimizer.lr": LR, "loss.lambda_commit": {"uniform": [0, 0.5]}}
    there = [t for t in read_ledger(past).trials.values() if t.number != 7]
    outside = sum(float(t.parameters["loss.lambda_commit"]) > 0.5 for t in there)
    found = fits(past, space=space)
    assert len(found.priors) == 15 - outside
    assert f"{outside} are outside space.loss.lambda_commit" in found.sentences[0]


def test_what_was_searched_there_and_is_fixed_here_must_be_the_fixed_value(tmp_path: Path) -> None:
    space = {"optimizer.lr": LR, "loss.lambda_commit": {"choice": [0.25, 0.5]}}
    past = searched(tmp_path / "past", space=space)
    there = [t for t in read_ledger(past).trials.values() if t.number != 7]
    equal = [t.number for t in there if t.parameters["loss.lambda_commit"] == 0.25]
    training = {"epochs": 9, "loss": {"lambda_commit": 0.25}}
    found = fits(past, space={"optimizer.lr": LR}, training=training)
    assert [prior.trial for prior in found.priors] == equal
    assert all(set(prior.parameters) == {"optimizer.lr"} for prior in found.priors)
    told = "have loss.lambda_commit other than the 0.25 that is fixed here"
    assert f"{15 - len(equal)} {told}" in found.sentences[0]


def test_what_is_searched_here_and_was_fixed_there_is_filled_in(tmp_path: Path) -> None:
    """From the file or by default: a batch size of 8 stands in no file."""
    past = searched(tmp_path / "past", training={"epochs": 9, "val_every_n_epochs": 1})
    more = {"batch_size": {"choice": [4, 8]}, "val_every_n_epochs": {"int_uniform": [1, 2]}}
    found = fits(past, space=SPACE | more)
    assert len(found.priors) == 15
    filled = {
        (p.parameters["batch_size"], p.parameters["val_every_n_epochs"]) for p in found.priors
    }
    assert filled == {(8, 1)}
    with pytest.raises(
        SearchError, match=r"0 of 16 trials of .* fit: 15 are outside space\.batch_si"
    ):
        fits(past, space=SPACE | {"batch_size": {"choice": [2, 4]}})


def test_a_setting_that_a_trial_did_not_have_is_asked_for_only_where_it_is_searched(
    tmp_path: Path,
) -> None:
    """Fewer trials have the third setting than the first two, and none where it has no part."""
    third = {"batch_size": {"choice": [4, 8], "when": {"loss.lambda_commit": {"min": 0.5}}}}
    past = searched(tmp_path / "past", space=SPACE | third)
    found = fits(past, space=SPACE | third)
    assert len(found.priors) == 15
    had = {prior.trial: "batch_size" in prior.parameters for prior in found.priors}
    assert 0 < sum(had.values()) < 15
    always = fits(past, space=SPACE | {"batch_size": {"choice": [4, 8]}})
    assert [prior.trial for prior in always.priors] == [n for n, has in had.items() if has]
    _, sampler = opened(tmp_path / "new", wanted(past, space=SPACE | third))
    assert sampler.ask(0)


def test_searches_of_something_else_are_refused(past: Path, tmp_path: Path) -> None:
    class Other(Regression):
        name = "other"

    with pytest.raises(SearchError, match=r"training of a regression, and this search is of a oth"):
        earlier(wanted(past), Other())
    with pytest.raises(SearchError, match=r"by val/traj \(min\), and this search is by val/commit"):
        fits(past, objective={"metric": "val/commit"})
    with pytest.raises(SearchError, match="no search has run here"):
        fits(tmp_path)


def test_other_data_and_other_settings_are_warned_of(tmp_path: Path) -> None:
    past = tmp_path / "past"
    then, sampler = begun(past, wanted(), facts={"data": "a", "tokenizer": "b"})
    play(then, sampler, 4)
    now = wanted(past, training={"epochs": 4, "batch_size": 16})
    (found,) = earlier(now, Regression(), {"data": "c", "tokenizer": "b"})
    assert found.sentences == (
        f"4 of 4 trials of {past} fit.",
        f"{past} stood on another data. Its values count as if they were of this search, so where "
        "the level of the objective differs they mislead.",
        f"{past} trained with other settings: batch_size 8 for 16, epochs 9 for 4.",
    )


@pytest.mark.parametrize("kind", ["random", "qmc", "grid"])
def test_a_searcher_that_learns_nothing_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} learns nothing from the searches of warm_start"):
        wanted(Path("past"), searcher={"kind": kind})


@pytest.mark.parametrize("method", LEARNING, ids=lambda method: method["kind"])
def test_suggestions_learn_from_priors_and_outlive_resume_and_replay(
    past: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    start = [{"optimizer.lr": 0.01, "loss.lambda_commit": 0.5}]
    warm = wanted(past, searcher=method, start=start)
    straight, sampler = begun(tmp_path / "straight", warm)
    play(straight, sampler, TRIED_FIRST + 3)
    directory = tmp_path / "broken"
    for until in (1, 2, TRIED_FIRST + 3):
        found, sampler = begun(directory, warm, resume=until > 1)
        shutil.rmtree(past, ignore_errors=True)
        play(found, sampler, until)
        (directory / JOURNAL).unlink()
    assert suggestions(found) == suggestions(straight)
    assert repr(found.ledger.priors) == repr(read_ledger(directory).priors), "NaN and all"
    cold, sampler = opened(tmp_path / "cold", wanted(searcher=method, start=start))
    play(cold, sampler, TRIED_FIRST + 3)
    first = tried_first(found.ledger)
    assert len(first) == TRIED_FIRST
    known = [start[0], *(prior.parameters for prior in first)]
    assert suggestions(found)[: len(known)] == known
    assert suggestions(found)[len(known) :] != suggestions(cold)[len(known) :]
    again = replay(directory, {"regression": Regression()})
    assert (again.suggestions, again.differences) == (TRIED_FIRST + 3, [])
    assert explain(found.ledger, 1)[1].startswith(
        f"Of the best of the earlier searches, trial {first[0].number} of {past}: "
    )
    assert "beside 15 of earlier searches" in explain(found.ledger, len(known))[1]


def test_a_best_point_that_is_a_start_point_is_tried_once(past: Path, tmp_path: Path) -> None:
    found, _ = begun(tmp_path / "once", wanted(past))
    best = tried_first(found.ledger)[0]
    found, sampler = begun(tmp_path / "twice", wanted(past, start=[best.parameters]))
    play(found, sampler, 2)
    assert suggestions(found)[0] == best.parameters != suggestions(found)[1]


@pytest.mark.parametrize(
    ("spare", "place", "to_its_end"),
    [(None, 1, {1}), (None, 0, {0}), (0, 1, set()), (2, 1, {0, 1})],
)
def test_the_best_earlier_point_alone_runs_to_its_end_wherever_it_comes(
    past: Path, tmp_path: Path, spare: int | None, place: int, to_its_end: set[int]
) -> None:
    """At `place` 1 it comes after the start point, at 0 it is the start point."""
    found, _ = begun(tmp_path / "known", wanted(past))
    best = tried_first(found.ledger)[0].parameters
    start = [{"optimizer.lr": 0.01, "loss.lambda_commit": 0.5} if place else best]
    asha = {"kind": "asha", "spare": spare}
    found, sampler = begun(tmp_path / "warm", wanted(past, start=start, scheduler=asha))
    for number in range(4):
        assert (found.suggested(sampler.ask(number)).parameters == best) == (number == place)
    assert found.report(3, 1, metrics(0.1), None) is None
    stopped = {n for n in range(3) if found.report(n, 1, metrics(9.0), None) is not None}
    assert stopped == {0, 1, 2} - to_its_end


def test_several_searches_are_told_together_and_each_must_tell_something(
    past: Path, tmp_path: Path
) -> None:
    other = searched(tmp_path / "other", space={"optimizer.lr": {"uniform": [0.2, 0.3]}})
    both = wanted(past, other)
    with pytest.raises(SearchError, match=re.escape(f"0 of 16 trials of {other} fit")):
        earlier(both, Regression())
    wide = {"optimizer.lr": {"log_uniform": [1e-4, 1]}, "loss.lambda_commit": {"uniform": [0, 1]}}
    found, _ = begun(tmp_path / "found", wanted(past, other, space=wide))
    assert {prior.source for prior in found.ledger.priors} == {str(past), str(other)}


def test_an_opening_that_was_cut_off_is_begun_anew(past: Path, tmp_path: Path) -> None:
    whole, _ = begun(tmp_path / "whole", wanted(past))
    directory = tmp_path / "cut"
    directory.mkdir()
    log = EventLog(directory / EVENTS)
    events: list[Event] = [*read_events(tmp_path / "whole" / EVENTS)]
    assert isinstance(events[0], StudyOpened)
    for event in events[:5]:
        log.append(event)
    log.close()
    found, _ = begun(directory, wanted(past))
    assert len(found.ledger.priors) == len(whole.ledger.priors) == 15


def test_a_wall_that_an_earlier_search_ran_into_is_known_from_the_first_trial(
    tmp_path: Path,
) -> None:
    """Sizes above 50 did not fit, and the larger the better below."""
    space = {"batch_size": {"int_uniform": [1, 100]}}
    past, sampler = opened(tmp_path / "past", wanted(space=space, searcher={"kind": "random"}))
    for number in range(40):
        trial = past.suggested(sampler.ask(number))
        size = int(trial.parameters["batch_size"])
        if size > 50:
            past.report(number, 1, {}, Stop("memory", "one sample does not fit"))
        else:
            for epoch in range(1, 10):
                past.report(number, epoch, metrics(2.0 - size / 100 + 1 / epoch), None)
    past.close()
    found, sampler = begun(tmp_path / "found", wanted(tmp_path / "past", space=space))
    for number in range(12):
        found.suggested(sampler.ask(number))
    sizes = [int(point["batch_size"]) for point in suggestions(found)]
    assert sum(25 <= size <= 50 for size in sizes) >= 7, sizes


def test_of_several_objectives_the_best_in_the_first_is_tried(tmp_path: Path) -> None:
    several: dict[str, Any] = {
        "objectives": [{"metric": "val/traj"}, {"metric": "val/commit"}],
        "scheduler": {"kind": "none"},
        "guards": [],
    }
    past = searched(tmp_path / "past", **several)
    for method in (KIND, LEARNING[2]):
        warm = wanted(past, searcher=method, **several)
        found, sampler = begun(tmp_path / method["kind"], warm)
        play(found, sampler, 6)
        done = [t for t in read_ledger(past).trials.values() if t.state() == "COMPLETED"]
        least = min(done, key=lambda trial: min(r["val/traj"] for r in trial.history.values()))
        assert suggestions(found)[0] == least.parameters


def test_a_dry_run_says_who_fits_and_a_misspelt_directory_is_said_at_once(tmp_path: Path) -> None:
    space = tmp_path / "tiny.yaml"
    space.write_text(TINY)
    past = Study.model_validate(read(space)[0])
    files = {"data": {"path": "data.h5"}, "tokenizer": "tokenizer"}
    past = past.model_copy(update={"training": past.training | files})
    found = Book.open(
        tmp_path / "past",
        past,
        trainable="noa",
        facts={},
        reporting=lambda _: (1, 2),
        resume=False,
    )
    for number, weight in enumerate((0.2, 0.4, 0.9)):
        found.suggested({"loss.lambda_commit": weight, "batch_size": 4})
        found.report(number, 1, metrics(weight), None)
    found.close()
    space.write_text(TINY.replace("[0.1, 1]", "[0.1, 0.5]").replace("kind: random", "kind: tpe"))
    command = ("tune_noa.py", "--space", space, "--dry-run", "--warm-start")
    shown = launch(*command, tmp_path / "past")
    told = f"2 of 3 trials of {tmp_path / 'past'} fit: 1 is outside space.loss.lambda_commit.\n"
    assert told in shown.stdout, shown.stderr
    assert "1 start points, then the best of the earlier searches, then tpe" in shown.stdout
    wrong = launch(*command, tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: no search has run here" in wrong.stderr


@pytest.mark.slow
def test_a_search_says_what_it_knows_and_is_resumed_without_it(past: Path, tmp_path: Path) -> None:
    warm = wanted(past, trials=2, resources={"execution": "in_process"})
    warm = warm.model_copy(update={"training": {"epochs": 2}})
    said = Console(file=StringIO(), width=400)
    run(warm, Regression(), tmp_path / "new", dashboard=False, console=said)
    shutil.rmtree(past)
    more = warm.model_copy(update={"trials": 3})
    result = run(more, Regression(), tmp_path / "new", resume=True, dashboard=False, console=said)
    assert isinstance(said.file, StringIO)
    lines = said.file.getvalue().splitlines()
    assert lines.count(f"15 of 16 trials of {past} fit: 1 failed.") == 1
    assert f"{past} trained with other settings: epochs 9 for 2." in lines
    assert result.finished
    assert len(result.ledger.trials) == 3
