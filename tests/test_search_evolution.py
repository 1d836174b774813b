"""CMA-ES as a fold of the log: it converges, is told ranks, and needs whole generations alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from test_scheduler_rules import metrics, study
from test_searcher_optuna import opened, suggestions

from spinlock.search.book import Book
from spinlock.search.events import Reported, State, StudyOpened, Suggested, Verdict
from spinlock.search.evolution import draw, ordered
from spinlock.search.ledger import Ledger
from spinlock.search.methods import CMAES
from spinlock.search.parameter import Parameter, Scalar
from spinlock.search.rules import Stop
from spinlock.search.space import Study

CUBE = {f"x{k}": {"uniform": [0, 1]} for k in range(5)}
POPULATION = 8  # 4 + 3 ln 5


def cube(kind: str = "cmaes", **changes: object) -> Study:
    return study(searcher={"kind": kind}, scheduler={"kind": "none"}, space=CUBE, **changes)


def whole(found: Book, number: int, value: float) -> None:
    for epoch in range(1, 10):
        found.report(number, epoch, metrics(value), None)


def evolved(wanted: Study, trials: int, function: Callable[[np.ndarray], float]) -> Ledger:
    """So many trials of one epoch, one after the other."""
    ledger = Ledger()
    dump = wanted.model_dump(mode="json")
    ledger.apply(StudyOpened(time=0, trainable="none", study=dump, facts={}))
    verdict = Verdict(state=State.COMPLETED, rule="completed", sentence="")
    for number in range(trials):
        point = draw(CMAES(), ledger, number)
        ledger.apply(Suggested(time=0, trial=number, parameters=point))
        found = metrics(function(coordinates(point)))
        ledger.apply(Reported(time=0, trial=number, epoch=1, metrics=found, verdict=verdict))
    return ledger


def coordinates(point: Mapping[str, Scalar]) -> np.ndarray:
    return np.array([float(value) for value in point.values()])


def sphere(x: np.ndarray) -> float:
    return float(((x - 0.7) ** 2).sum())


def ellipsoid(x: np.ndarray) -> float:
    """Axes of very different lengths, none along a setting."""
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(len(x), len(x))))[0] @ (x - 0.3)
    return float((100 ** np.linspace(0, 1, len(x)) * turned**2).sum())


@pytest.mark.parametrize("function", [sphere, ellipsoid])
def test_it_comes_far_nearer_than_random_points_in_as_many_trials(
    function: Callable[[np.ndarray], float],
) -> None:
    wanted = cube()
    ledger = evolved(wanted, 200, function)
    ours = min(row["val/traj"] for t in ledger.trials.values() for row in t.history.values())
    drawn = min(function(coordinates(point)) for point in wanted.sample(200))
    assert ours < drawn / 10


def centre(ledger: Ledger) -> float:
    """The mean of many suggestions, over all settings."""
    points = [draw(CMAES(), ledger, number) for number in range(100, 400)]
    return float(np.mean([list(point.values()) for point in points]))


def generation(directory: Path, tell: Callable[[Book, int], None], high: int) -> Book:
    """A first generation at 0.5 but for trial `high`, which is at 0.9 in every setting."""
    found, _ = opened(directory, cube())
    for number in range(POPULATION):
        found.suggested(dict.fromkeys(CUBE, 0.9 if number == high else 0.5))
        tell(found, number)
    return found


def test_the_next_generation_lies_where_the_best_of_the_last_one_was(tmp_path: Path) -> None:
    best = generation(tmp_path / "best", lambda f, n: whole(f, n, 1.0 if n == 6 else 2.0), 6)
    worst = generation(tmp_path / "worst", lambda f, n: whole(f, n, 3.0 if n == 6 else 2.0), 6)
    assert centre(best.ledger) > 0.6 > 0.52 > centre(worst.ledger) > 0.48


def test_a_failed_trial_pulls_nowhere(tmp_path: Path) -> None:
    def tell(found: Book, number: int) -> None:
        if number % 2:
            found.fail(number, "ActorDiedError: killed")
        else:
            found.report(number, 1, {}, Stop("memory", "one sample does not fit"))

    def first_is_well(found: Book, number: int) -> None:
        whole(found, number, 1.0) if number == 0 else tell(found, number)

    nothing = generation(tmp_path / "nothing", tell, 1)
    before, _ = opened(tmp_path / "before", cube())
    assert draw(CMAES(), nothing.ledger, 50) == draw(CMAES(), before.ledger, 50)
    assert abs(centre(generation(tmp_path / "well", first_is_well, 1).ledger) - 0.5) < 0.01


def test_a_generation_counts_once_all_of_it_have_ended(tmp_path: Path) -> None:
    found, sampler = opened(tmp_path, cube())
    before = [draw(CMAES(), found.ledger, number) for number in range(2 * POPULATION)]
    for _ in range(2 * POPULATION):
        found.suggested(sampler.ask(len(found.ledger.trials)))
    assert suggestions(found) == before
    for number in (*range(POPULATION - 1), *range(POPULATION, 2 * POPULATION)):
        whole(found, number, 1.0 + number)
    assert draw(CMAES(), found.ledger, 15) == before[15]
    whole(found, POPULATION - 1, 0.5)
    assert draw(CMAES(), found.ledger, 15) != before[15]


def test_trials_are_ranked_by_their_end_then_how_far_they_came_then_the_objective(
    tmp_path: Path,
) -> None:
    wanted = cube(
        objective={"metric": "val/traj", "subject_to": [{"metric": "val/commit", "max": 1}]},
        guards=[{"kind": "divergence", "factor": 3}],
    )
    wanted = wanted.model_copy(update={"scheduler": study(scheduler={"kind": "asha"}).scheduler})
    found, _ = opened(tmp_path, wanted)
    curves = {  # value and commitment of each epoch
        "completed, worse": [(0.7, 0)] * 9,
        "completed": [(0.5, 0)] * 9,
        "guarded": [(0.4, 0), (4.0, 0)],
        "pruned at 3": [(0.4, 0), (0.9, 0), (0.9, 0)],
        "pruned at 1": [(0.8, 0)],
        "pruned at 1, worse": [(0.9, 0)],
        "keeps no limit": [(0.95, 1.2)],
        "is further from it": [(0.95, 1.5)],
    }
    for number, curve in enumerate(curves.values()):
        found.suggested(dict.fromkeys(CUBE, 0.5))
        for epoch, (value, commit) in enumerate(curve, start=1):
            found.report(number, epoch, metrics(value, commit), None)
    found.suggested(dict.fromkeys(CUBE, 0.5))
    found.fail(len(curves), "ActorDiedError: killed")
    names = [*curves, "failed"]
    order = [names[t.number] for t in ordered([*found.ledger.trials.values()], wanted)]
    assert order == ["completed", "completed, worse", *names[3:], "guarded"]


def test_trials_that_wait_at_a_rung_count_by_what_they_have_shown(tmp_path: Path) -> None:
    promotion = study(scheduler={"kind": "promotion", "rungs": [2]}).scheduler
    found, _ = opened(tmp_path, cube().model_copy(update={"scheduler": promotion}))
    empty = draw(CMAES(), found.ledger, 8)
    for number in range(POPULATION):
        found.suggested(dict.fromkeys(CUBE, 0.9 if number == 3 else 0.5))
        for epoch in (1, 2):
            found.report(number, epoch, metrics(1.0 if number == 3 else 2.0), None)
    assert {trial.state() for trial in found.ledger.trials.values()} == {State.PAUSED}
    assert centre(found.ledger) > 0.6
    moved = draw(CMAES(), found.ledger, 8)
    assert moved != empty
    found.promote(3, 2)
    assert draw(CMAES(), found.ledger, 8) == moved, "on its way it still counts"


def test_points_stay_in_the_space_though_nothing_tells_them_apart() -> None:
    """Whole numbers, and every trial as good as the others, for forty generations."""
    space = {"a": {"int_uniform": [1, 3]}, "b": {"log_uniform": [1e-9, 1e3]}}
    wanted = Study.model_validate(cube(seed=3).model_dump() | {"space": space})
    for trial in evolved(wanted, 160, lambda _: 1.0).trials.values():
        assert all(wanted.space[key].holds(value) for key, value in trial.parameters.items())


def test_the_first_point_of_the_study_is_where_it_begins(tmp_path: Path) -> None:
    found, _ = opened(tmp_path, cube(start=[dict.fromkeys(CUBE, 0.8)]))
    assert abs(centre(found.ledger) - 0.8) < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": CUBE | {"c": {"choice": [1, 2]}}}, "searches ranges, and c is a choice. Take"),
        ({"space": {"x0": CUBE["x0"]}}, "needs two settings, and x0 is the only one"),
        (
            {"objectives": [{"metric": "val/traj"}, {"metric": "val/commit"}]},
            "has one objective, and here are 2. Take tpe or nsga2",
        ),
    ],
)
def test_what_it_cannot_search_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study.model_validate(cube().model_dump(exclude={"objectives"}) | changes)


@pytest.mark.parametrize("setting", ["uniform", "log_uniform", "int_uniform"])
def test_the_share_of_a_value_leads_back_to_it(setting: str) -> None:
    parameter = Parameter.model_validate({setting: [2, 9]})
    for share in np.linspace(0, 0.999, 50):
        value = parameter.at(float(share))
        again = parameter.at(parameter.share(value))
        assert again == pytest.approx(value, rel=1e-12)
        if setting == "int_uniform":
            assert again == value
        else:
            assert parameter.share(value) == pytest.approx(share, abs=1e-12)
