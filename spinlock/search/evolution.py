"""CMA-ES as a fold of the log: its state is derived for every suggestion, and kept nowhere.

A generation is a block of `population` consecutive trials, start points among them. A trial is
drawn from the state after every complete block in a row from the first, by a generator seeded with
(study's seed, trial's number). So a suggestion is a function of ledger and seed, the same after a
resume and in a replay, and trials that run in parallel may come from one generation's state.

CMA-ES looks at ranks alone. Within a block they are, best first:

    COMPLETED                    by the objective
    PRUNED, or at a rung         who came further first, then by the objective
    no epoch keeps the limits    by how much is missing
    FAILED                       as a point at the distribution's mean, which pulls nowhere
    GUARDED, INFEASIBLE          all alike

A block without any of the first three has nothing to choose from, and is passed over.

The mathematics are the library `cmaes` (Nomura and Shibata, arXiv 2402.01373). Optuna's sampler
around it keeps a pickle in the study and loads it on a resume; it is not used.
"""

import math
from collections.abc import Sequence

import cmaes
import numpy as np

from spinlock.search.events import State
from spinlock.search.ledger import Ledger
from spinlock.search.methods import CMAES
from spinlock.search.parameter import Scalar
from spinlock.search.ranking import best_priors
from spinlock.search.space import Promotion, Study
from spinlock.search.trial import Trial

_BELOW_ONE = math.nextafter(1.0, 0.0)
_FAILED, _SICK = (3.0,), (4.0,)


def draw(method: CMAES, ledger: Ledger, number: int) -> dict[str, Scalar]:
    """The point of trial `number`, by what the ledger says of those before it."""
    study = ledger.study
    seed = np.random.SeedSequence([study.seed, number]).generate_state(1)[0]
    state = _state(method, ledger)
    state.reseed_rng(int(seed))
    shares = zip(study.space.items(), state.ask(), strict=True)
    return {key: p.at(min(float(share), _BELOW_ONE)) for (key, p), share in shares}


def ordered(trials: Sequence[Trial], study: Study) -> list[Trial]:
    """Trials from the best to the worst; of equals the first."""
    return sorted(trials, key=lambda trial: _rank(trial, study))


def _state(method: CMAES, ledger: Ledger) -> cmaes.CMA:
    """The distribution after every complete block in a row from the first.

    It begins at the best trial of earlier searches, with half the spread, at the first start point,
    or in the middle.
    """
    space, prior = ledger.study.space, next(best_priors(ledger), None)
    first = ledger.study.start[0] if ledger.study.start else {}
    if prior is not None:
        first = prior.parameters
    mean = [p.share(first[key]) if key in first else 0.5 for key, p in space.items()]
    state = cmaes.CMA(
        mean=np.array(mean),
        sigma=method.sigma if prior is None else method.sigma / 2,
        bounds=np.array([[0.0, 1.0]] * len(space)),
        population_size=method.population,
    )
    trials = [trial for _, trial in sorted(ledger.trials.items())]
    size = state.population_size
    for begin in range(0, len(trials) - size + 1, size):
        block = trials[begin : begin + size]
        if not all(_shown(trial, ledger) for trial in block):
            break
        block = ordered(block, ledger.study)
        if _rank(block[0], ledger.study) >= _FAILED:
            continue
        points = [
            state.mean.copy()
            if trial.state() == State.FAILED
            else np.array([p.share(trial.parameters[key]) for key, p in space.items()])
            for trial in block
        ]
        state.tell([(point, float(rank)) for rank, point in enumerate(points)])
    return state


def _shown(trial: Trial, ledger: Ledger) -> bool:
    """Whether it can be ranked: it has ended, or has come to a rung where all of them wait."""
    waits = isinstance(ledger.study.scheduler, Promotion)
    return trial.verdict is not None or (
        waits and any(trial.number in values for values in ledger.rungs.values())
    )


def _rank(trial: Trial, study: Study) -> tuple[float, ...]:
    """Less is better."""
    state, best = trial.state(), trial.best(study.goals)
    if state == State.FAILED:
        return _FAILED
    if state in (State.GUARDED, State.INFEASIBLE):
        return _SICK
    if best is None:
        missing = [
            max(limit.excess(metrics) for limit in study.limits)
            for metrics in trial.history.values()
            if study.limits
        ]
        return 2.0, min(missing, default=math.inf)
    cost = study.goals[0].cost(best[1][0])
    return (0.0, cost) if state == State.COMPLETED else (1.0, float(-trial.epochs), cost)
