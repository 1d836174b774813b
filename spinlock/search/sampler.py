"""Optuna, told the truth: one Optuna trial per trial of ours, with the same number and fate.

    COMPLETED            COMPLETE with the value of the best epoch; PRUNED if none keeps the limits
    PRUNED               PRUNED with every intermediate value
    GUARDED, INFEASIBLE  PRUNED, and the constraint named after the rule is 1 (violated)
    FAILED               FAIL, which samplers pass over: nothing was learned about the point
    PAUSED               RUNNING in the study, and to the sampler PRUNED until it goes on

A point that made a NaN or ran out of memory is never FAIL: samplers would propose it again.
With several objectives COMPLETE has a value for each, and there are no intermediate values:
Optuna 5 refuses them. PRUNED without one is ranked by TPE behind everything that completed, and a
violated constraint behind that, as with one objective. A Gaussian process and NSGA-II pass over
both: they learn from completed trials alone.
The study lives in a journal file, so optuna-dashboard can show it while the search runs; our own
log stays the master, and `Sampler.open` brings the study into line with it.

A setting with a condition is asked for after its parents, and only where it is searched. Then TPE
models it among the trials that had it; a Gaussian process and NSGA-II, which model what every
trial has, leave it to chance.

Each suggestion draws from a generator seeded by (study's seed, trial's number), so it depends on
what was told before and not on how often the search was interrupted.
"""

import copy
import logging
import math
import warnings
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as OptunaTrial

from spinlock.search.conditions import ordered
from spinlock.search.events import State, drop_torn_line
from spinlock.search.ledger import Ledger, Trial
from spinlock.search.methods import GP, NSGA2, QMC, TPE, Grid, Random
from spinlock.search.parameter import Parameter, Scalar
from spinlock.search.space import Study

JOURNAL = "optuna.journal"
_log = logging.getLogger(__name__)


class Sampler:
    """An Optuna study kept equal to a ledger. Not picklable, and never sent anywhere."""

    def __init__(self, study: optuna.Study, settings: Study) -> None:
        self.study = study
        self._settings = settings
        self._order = ordered(settings.space)
        self._rules = sorted({"nonfinite", "memory", "invalid", *(g.kind for g in settings.guards)})
        self._open: dict[int, OptunaTrial] = {}
        self._told: dict[int, int] = {}  # the last epoch reported, by trial
        self._paused: set[int] = set()

    @classmethod
    def open(cls, experiment: Path, ledger: Ledger) -> "Sampler":
        """The study beside the log, made or mended until every trial of the ledger is in it."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = experiment / JOURNAL
        # The experiment's lock is ours, so a lock on the journal is of a writer that was killed.
        path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
        drop_torn_line(path)
        try:
            study = _study(path, ledger.study)
            agrees = _agrees(study, ledger)
        except (ValueError, KeyError) as error:
            _log.warning("%s is damaged (%s): made anew from the log.", path, error)
            agrees = False
        if not agrees:
            path.unlink()
            study = _study(path, ledger.study)
        sampler = cls(study, ledger.study)
        sampler._mend(ledger)
        return sampler

    def ask(self, number: int) -> dict[str, Scalar]:
        """The parameters of trial `number`, which must be the next one."""
        seed = np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0]
        self.study.sampler = _sampler(self._settings, int(seed))
        waiting = self.study.get_trials(deepcopy=False)
        if number < len(waiting) and waiting[number].state == TrialState.RUNNING:
            # Asked for by a driver that was killed before the trial stood in the log.
            trial = OptunaTrial(self.study, waiting[number]._trial_id)
        else:
            if number == len(waiting):
                point = self._point(number, waiting)
                if point is not None:
                    self.study.enqueue_trial(point)
            trial = self.study.ask()
        parameters = self._suggested(trial)
        if trial.number != number:
            raise RuntimeError(f"Optuna began trial {trial.number} where {number} was due")
        self._open[number] = trial
        return parameters

    def _point(self, number: int, trials: list[FrozenTrial]) -> dict[str, Scalar] | None:
        """What is known of a point before the study is asked for the rest of it; None: nothing."""
        start, searcher = self._settings.start, self._settings.searcher
        aside = self._settings.conditional and isinstance(searcher, TPE | GP)
        if number < len(start):
            return self._beside(trials, start[number]) if aside else start[number]
        planned = self._settings.planned(number)
        if planned is None and (aside or (self._paused and not isinstance(searcher, Random))):
            return self._beside(trials, None)
        return planned

    def _beside(
        self, trials: list[FrozenTrial], given: dict[str, Scalar] | None
    ) -> dict[str, Scalar]:
        """The sampler's point from a study beside, with what is `given` of it.

        Most trials of a promoting search wait until its end, and a trial that Optuna has ended
        cannot go on. Beside, those that wait are PRUNED: the sampler learns what they have shown,
        and does not take them for bad ones that still run.

        TPE and the Gaussian process note with a trial all that they drew, also for settings that
        it then did not have, and count that as its own while it runs. Our log holds no such
        notes, so a resume could not repeat what rests on them. Noted beside, they are forgotten.
        """
        study = optuna.create_study(directions=self.study.directions, sampler=self.study.sampler)
        for trial in trials:
            told = copy.copy(trial)
            if trial.number in self._paused:
                told.state, told.datetime_complete = TrialState.PRUNED, trial.datetime_start
            study.add_trial(told)
        if given is not None:
            study.enqueue_trial(given)
        return self._suggested(study.ask())

    def _suggested(self, trial: OptunaTrial) -> dict[str, Scalar]:
        """The settings that are searched in this trial, parents first, in the space's order."""
        space, drawn = self._settings.space, dict[str, Scalar]()
        for key in self._order:
            if space[key].active(drawn):
                drawn[key] = _suggest(trial, key, distribution(space[key]))
        return {key: drawn[key] for key in space if key in drawn}

    def tell(self, trial: Trial) -> None:
        """Bring Optuna's record of `trial` up to date, and end it there if it has ended here."""
        mine = self._open.get(trial.number)
        if mine is None:
            return
        if trial.paused is None:
            self._paused.discard(trial.number)
        else:
            self._paused.add(trial.number)
        if not self._settings.objectives:
            self._report(mine, trial)
        if trial.verdict is None:
            return
        mine.set_user_attr("state", str(trial.verdict.state))
        mine.set_user_attr("rule", trial.verdict.rule)
        mine.set_user_attr("reason", trial.verdict.sentence)
        mine.set_user_attr("epochs", trial.epochs)
        match trial.verdict.state:
            case State.FAILED:
                self.study.tell(mine, state=TrialState.FAIL)
            case State.COMPLETED:
                self._constrain(mine, violated=None, trial=trial)
                best = trial.best(self._settings.goals)
                if best is None:
                    self.study.tell(mine, state=TrialState.PRUNED)
                else:
                    mine.set_user_attr("best_epoch", best[0])
                    self.study.tell(mine, list(best[1]))
            case State.PRUNED:
                self._constrain(mine, violated=None, trial=trial)
                self.study.tell(mine, state=TrialState.PRUNED)
            case State.GUARDED | State.INFEASIBLE:
                self._constrain(mine, violated=trial.verdict.rule, trial=trial)
                self.study.tell(mine, state=TrialState.PRUNED)
            case State.RUNNING | State.PREEMPTED | State.PAUSED | State.INTERRUPTED:
                raise RuntimeError(f"a verdict cannot be {trial.verdict.state}")
            case _:
                assert_never(trial.verdict.state)
        del self._open[trial.number]

    def _report(self, mine: OptunaTrial, trial: Trial) -> None:
        """Intermediate values: the objective after each epoch that Optuna has not heard of."""
        (goal,) = self._settings.goals
        for epoch, metrics in trial.history.items():
            if epoch <= self._told.get(trial.number, 0):
                continue
            value = metrics.get(goal.metric, math.nan)
            if math.isfinite(value):
                mine.report(value, step=epoch)
            self._told[trial.number] = epoch

    def _constrain(self, mine: OptunaTrial, *, violated: str | None, trial: Trial) -> None:
        """By rule whether it ended the trial; by limit the least that an epoch was outside."""
        known = self.study.get_trials(deepcopy=False)[mine.number].constraints
        told = {rule: 1.0 if rule == violated else 0.0 for rule in self._rules}
        for limit in self._settings.limits:
            least = min(map(limit.excess, trial.history.values()), default=math.inf)
            told[str(limit)] = least if math.isfinite(least) else 1.0
        for name, value in told.items():
            if name not in known:  # else by a driver that was killed in the middle of telling
                mine.set_constraint(name, value)

    def _mend(self, ledger: Ledger) -> None:
        """Enter what the log knows and the study does not."""
        known = self.study.get_trials(deepcopy=False)
        for number, trial in sorted(ledger.trials.items()):
            if number >= len(known):
                self.study.enqueue_trial(trial.parameters)
                self._open[number] = self.study.ask()
                self._suggested(self._open[number])
            elif known[number].state == TrialState.RUNNING:
                self._open[number] = OptunaTrial(self.study, known[number]._trial_id)
                self._told[number] = max(known[number].intermediate_values, default=0)
            self.tell(trial)


def distribution(parameter: Parameter) -> BaseDistribution:
    """A searched setting in Optuna's words."""
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    low, high = parameter.range
    if parameter.int_uniform is not None:
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=parameter.log_uniform is not None)


def _study(path: Path, settings: Study) -> optuna.Study:
    # O_EXCL rather than a symlink: shared file systems of clusters do not all have symlinks.
    storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    return optuna.create_study(
        study_name=settings.name,
        storage=storage,
        directions=["minimize" if g.mode == "min" else "maximize" for g in settings.goals],
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def _agrees(study: optuna.Study, ledger: Ledger) -> bool:
    """Whether the study can be mended by adding: it holds nothing that the log denies."""
    known = study.get_trials(deepcopy=False)
    started = [t for t in known if t.state != TrialState.WAITING]
    if len(started) > len(ledger.trials) + 1:
        return False
    for number, trial in ledger.trials.items():
        if number >= len(known):
            continue
        if known[number].params != trial.parameters:
            return False
        if known[number].state.is_finished() and trial.verdict is None:
            return False
    return True


def _sampler(settings: Study, seed: int) -> optuna.samplers.BaseSampler:
    method = settings.searcher
    match method:
        case TPE():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # that `group` may change
                return optuna.samplers.TPESampler(
                    n_startup_trials=method.startup_trials,
                    n_ei_candidates=method.candidates,
                    multivariate=method.multivariate,
                    group=method.multivariate and settings.conditional,
                    constant_liar=method.constant_liar,
                    seed=seed,
                )
        case GP():
            return optuna.samplers.GPSampler(
                n_startup_trials=method.startup_trials,
                warn_independent_sampling=not settings.conditional,
                seed=seed,
            )
        case NSGA2():
            return optuna.samplers.NSGAIISampler(population_size=method.population, seed=seed)
        case Random() | QMC() | Grid():  # whose points are given, whatever the sampler
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            assert_never(method)


def _suggest(trial: OptunaTrial, key: str, space: BaseDistribution) -> Any:
    match space:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, space.choices)
        case IntDistribution():
            return trial.suggest_int(key, space.low, space.high)
        case FloatDistribution():
            return trial.suggest_float(key, space.low, space.high, log=space.log)
        case _:
            raise TypeError(f"no setting becomes a {type(space).__name__}")
