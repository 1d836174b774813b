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
The study lives in a journal file or a database, so optuna-dashboard can show it while the search
runs; our own log stays the master. `Sampler.open` brings the study into line with it, and where
the study can no longer be written the search goes on with one in memory, made from the log. Trials
of earlier searches are not in it: they stand in a study beside, in memory, in which the sampler is
asked.

A setting with a condition is asked for after its parents, and only where it is searched. Then TPE
models it among the trials that had it; a Gaussian process and NSGA-II, which model what every
trial has, leave it to chance.

Each suggestion draws from a generator seeded by (study's seed, trial's number), so it depends on
what was told before and not on how often the search was interrupted.
"""

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, assert_never

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as OptunaTrial

from spinlock.errors import SearchError
from spinlock.search import storage
from spinlock.search.conditions import ordered
from spinlock.search.events import State
from spinlock.search.ledger import Ledger
from spinlock.search.methods import CMAES, GP, TPE, Random
from spinlock.search.optuna_words import distribution, sampler_of, suggest
from spinlock.search.parameter import Scalar
from spinlock.search.ranking import TRIED_FIRST, tried_first
from spinlock.search.trial import Trial

_log = logging.getLogger(__name__)
# NSGA-II breeds from trials that have a generation; those of earlier searches are of the first.
_FIRST_GENERATION = {optuna.samplers.NSGAIISampler._get_generation_key(): 0}
_Answer = TypeVar("_Answer")


class Sampler:
    """An Optuna study kept equal to a ledger. Not picklable, and never sent anywhere."""

    def __init__(self, study: optuna.Study, ledger: Ledger) -> None:
        self.study, self._ledger = study, ledger
        self._settings = settings = ledger.study
        self._order = ordered(settings.space)
        self._rules = sorted({"nonfinite", "memory", "invalid", *(g.kind for g in settings.guards)})
        self._begun = 0  # trials of the study: those of the log, and perhaps one more
        self._open: dict[int, OptunaTrial] = {}
        self._told: dict[int, int] = {}  # the last epoch reported, by trial
        self._paused: set[int] = set()
        self._elsewhere: list[FrozenTrial] = []  # those of earlier searches
        self.lost = False  # whether the study could not be used, and is one in memory since

    @classmethod
    def open(cls, experiment: Path, ledger: Ledger, *, url: str | None = None) -> "Sampler":
        """The study beside the log, or in the database at `url`, made or mended from the log.

        Raises SearchError where file or database cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = experiment / storage.JOURNAL if url is None else url
        try:
            if isinstance(place, Path):
                study = storage.in_journal(place, ledger)
            else:
                study = storage.in_database(place, ledger)
            sampler = cls(study, ledger)
            sampler._mend()
        except storage.FAILURES as error:
            raise storage.unusable(place, error) from None
        return sampler

    @classmethod
    def in_memory(cls, ledger: Ledger) -> "Sampler":
        """The same without a file, to derive suggestions from a ledger alone."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = cls(storage.in_memory(ledger.study), ledger)
        sampler._mend()
        return sampler

    def settle(self, experiment: Path, *, url: str | None) -> None:
        """Bring the study into line at the end of a session in which it could not be used."""
        if self.lost:
            try:
                Sampler.open(experiment, self._ledger, url=url)
            except SearchError as error:
                _log.warning("%s", error)

    def ask(self, number: int) -> dict[str, Scalar]:
        """The parameters of trial `number`, which must be the next one."""
        return self._whatever_fails(lambda: self._ask(number))

    def tell(self, trial: Trial) -> None:
        """Bring Optuna's record of `trial` up to date, and end it there if it has ended here."""
        self._whatever_fails(lambda: self._tell(trial))

    def _whatever_fails(self, act: Callable[[], _Answer]) -> _Answer:
        """Do it, if the study can no longer be read or written with one in memory."""
        try:
            return act()
        except storage.FAILURES as error:
            _log.warning(
                "Optuna's study cannot be used (%s). The search goes on from its own log; the "
                "study is brought into line at the end of this session, or by the next --resume.",
                storage.reason(error),
            )
        self.study = storage.in_memory(self._settings)
        self.lost = True
        self._open, self._told, self._paused = {}, {}, set()
        self._mend()
        return act()

    def _ask(self, number: int) -> dict[str, Scalar]:
        seed = np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0]
        self.study.sampler = sampler_of(self._settings, int(seed))
        trial = self._left_behind() if number < self._begun else None
        if trial is None:
            if number >= self._begun and (point := self._point(number)) is not None:
                self.study.enqueue_trial(point)
            trial = self.study.ask()
        parameters = self._suggested(trial)
        if trial.number != number:
            raise RuntimeError(f"Optuna began trial {trial.number} where {number} was due")
        self._begun = max(self._begun, number + 1)
        self._open[number] = trial
        return parameters

    def _left_behind(self) -> OptunaTrial | None:
        """What a driver has asked for that was killed before the trial stood in the log."""
        last = self.study.get_trials(deepcopy=False)[-1]
        running = last.state == TrialState.RUNNING  # else it waits to be asked for
        return OptunaTrial(self.study, last._trial_id) if running else None

    def _point(self, number: int) -> dict[str, Scalar] | None:
        """What is known of a point before the study is asked for the rest of it; None: nothing."""
        start, searcher = self._settings.start, self._settings.searcher
        aside = self._settings.conditional and isinstance(searcher, TPE | GP)
        if number < len(start):
            return self._beside(start[number]) if aside else start[number]
        planned = self._planned(number)
        learns = not isinstance(searcher, Random) and (self._paused or self._ledger.priors)
        if planned is None and (aside or learns):
            return self._beside(None)
        return planned

    def _planned(self, number: int) -> dict[str, Scalar] | None:
        """The point of trial `number` that Optuna has no say in; None where it has."""
        after = number - len(self._settings.start)
        if after < TRIED_FIRST and after < len(first := tried_first(self._ledger)):
            return first[after].parameters
        if isinstance(self._settings.searcher, CMAES):
            from spinlock.search import evolution  # its library is half a second of every start

            return evolution.draw(self._settings.searcher, self._ledger, number)
        return self._settings.planned(number)

    def _beside(self, given: dict[str, Scalar] | None) -> dict[str, Scalar]:
        """The sampler's point from a study beside, with what is `given` of it.

        Trials of earlier searches are no trials of this one, and stand there alone.

        Most trials of a promoting search wait until its end, and a trial that Optuna has ended
        cannot go on. Beside, those that wait are PRUNED: the sampler learns what they have shown,
        and does not take them for bad ones that still run.

        TPE and the Gaussian process note with a trial all that they drew, also for settings that
        it then did not have, and count that as its own while it runs. Our log holds no such
        notes, so a resume could not repeat what rests on them. Noted beside, they are forgotten.
        """
        study = optuna.create_study(directions=self.study.directions, sampler=self.study.sampler)
        for prior in self._ledger.priors[len(self._elsewhere) :]:
            self._elsewhere.append(self._told_elsewhere(prior))
        for told in self._elsewhere:
            study.add_trial(told)
        for trial in self.study.get_trials(deepcopy=False):
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
                drawn[key] = suggest(trial, key, distribution(space[key]))
        return {key: drawn[key] for key in space if key in drawn}

    def _told_elsewhere(self, prior: Trial) -> FrozenTrial:
        """A trial of an earlier search, which Optuna has never asked for, as `tell` would tell it.

        What a guard ended that this search does not have counts as pruned.
        """
        space = self._settings.space
        verdict, best = prior.verdict, prior.best(self._settings.goals)
        done = verdict is not None and verdict.state == State.COMPLETED and best is not None
        sick = verdict is not None and verdict.state in (State.GUARDED, State.INFEASIBLE)
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if done else TrialState.PRUNED,
            values=list(best[1]) if done and best is not None else None,
            params=prior.parameters,
            distributions={key: distribution(space[key]) for key in prior.parameters},
            intermediate_values=self._curve(prior),
            constraints=self._constraints(prior, verdict.rule if sick and verdict else None),
            system_attrs=dict(_FIRST_GENERATION),  # which Optuna adds constraints to
        )

    def _tell(self, trial: Trial) -> None:
        mine = self._open.get(trial.number)
        if mine is None:
            return
        if trial.paused is None:
            self._paused.discard(trial.number)
        else:
            self._paused.add(trial.number)
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
        """Intermediate values of each epoch that Optuna has not heard of."""
        for epoch, value in self._curve(trial).items():
            if epoch > self._told.get(trial.number, 0):
                mine.report(value, step=epoch)
        self._told[trial.number] = trial.epochs

    def _curve(self, trial: Trial) -> dict[int, float]:
        """The objective after each epoch where it is finite; nothing of several objectives."""
        if self._settings.objectives:
            return {}
        (goal,) = self._settings.goals
        curve = {e: metrics.get(goal.metric, math.nan) for e, metrics in trial.history.items()}
        return {epoch: value for epoch, value in curve.items() if math.isfinite(value)}

    def _constraints(self, trial: Trial, violated: str | None) -> dict[str, float]:
        """By rule whether it ended the trial; by limit the least that an epoch was outside."""
        told = {rule: 1.0 if rule == violated else 0.0 for rule in self._rules}
        for limit in self._settings.limits:
            least = min(map(limit.excess, trial.history.values()), default=math.inf)
            told[str(limit)] = least if math.isfinite(least) else 1.0
        return told

    def _constrain(self, mine: OptunaTrial, *, violated: str | None, trial: Trial) -> None:
        known = mine.constraints
        for name, value in self._constraints(trial, violated).items():
            if name not in known:  # else by a driver that was killed in the middle of telling
                mine.set_constraint(name, value)

    def _mend(self) -> None:
        """Enter what the log knows and the study does not."""
        known = self.study.get_trials(deepcopy=False)
        self._begun = max(len(known), len(self._ledger.trials))
        for number, trial in sorted(self._ledger.trials.items()):
            if number >= len(known):
                self.study.enqueue_trial(trial.parameters)
                self._open[number] = self.study.ask()
                self._suggested(self._open[number])
            elif known[number].state == TrialState.RUNNING:
                self._open[number] = OptunaTrial(self.study, known[number]._trial_id)
                self._told[number] = max(known[number].intermediate_values, default=0)
            self._tell(trial)
