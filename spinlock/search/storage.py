"""Where Optuna's study lives: a journal file beside the log, or a database that the user names.

The log is the master. A study that holds what the log denies is made anew, and one that cannot be
reached costs no epoch: whoever asks is told so in a sentence.
"""

import logging
import os
import shlex
from collections.abc import Container
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from spinlock.errors import SearchError
from spinlock.search.events import drop_torn_line
from spinlock.search.ledger import Ledger
from spinlock.search.space import Study

JOURNAL = "optuna.journal"
PASSWORD = "SPINLOCK_STORAGE_PASSWORD"
FAILURES = (StorageInternalError, SQLAlchemyError, OSError)
"""What reading and writing a study raises when its file or its database does not answer."""
_log = logging.getLogger(__name__)


def in_journal(path: Path, ledger: Ledger) -> optuna.Study:
    """The study in a journal file, which only the holder of its experiment's lock may open."""
    # The experiment's lock is ours, so a lock on the journal is of a writer that was killed.
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    drop_torn_line(path)
    name = ledger.study.name
    try:
        study = _study(_Journal(path), ledger.study, name)
        agrees = _agrees(study, ledger)
    except (ValueError, KeyError) as error:
        _log.warning("%s is damaged (%s): made anew from the log.", path, error)
        agrees = False
    if not agrees:
        path.unlink()
        study = _study(_Journal(path), ledger.study, name)
    return study


def in_database(url: str, ledger: Ledger) -> optuna.Study:
    """The search's study in the database at `url`."""
    storage, name = connect(url), database_name(ledger)
    study = _study(storage, ledger.study, name)
    if not _agrees(study, ledger):
        optuna.delete_study(study_name=name, storage=storage)
        study = _study(storage, ledger.study, name)
    return study


def in_memory(settings: Study) -> optuna.Study:
    """An empty study that is kept nowhere."""
    return _study(optuna.storages.InMemoryStorage(), settings, settings.name)


def connect(url: str) -> RDBStorage:
    """The database at `url`, with the password that the environment has for it.

    Raises SearchError where it cannot be used.
    """
    password = os.environ.get(PASSWORD)
    try:
        place = make_url(url)
        if password is not None:
            place = place.set(password=password)
        # A connection that the server has dropped since it was last used is made anew.
        return RDBStorage(
            place.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
        )
    except (*FAILURES, ImportError, ValueError, RuntimeError) as error:
        raise unusable(url, error) from None


def file_of(url: str) -> Path | None:
    """The file that the database at `url` is; None where a server keeps it."""
    place = make_url(url)
    return Path(place.database or "") if place.get_backend_name() == "sqlite" else None


def database_name(ledger: Ledger) -> str:
    """The study's name in a database, where other searches may be: when this one began is in it."""
    opened = ledger.opened
    if opened is None:
        raise TypeError("a search that has not begun has no study")
    return f"{ledger.study.name}-{datetime.fromtimestamp(opened.time, UTC):%Y%m%dT%H%M%S.%f}"


def reason(error: BaseException) -> str:
    """What a storage says of its failure, in one line, without the password."""
    cause = error.__cause__ or error
    line = next(iter(str(cause).splitlines()), "") or type(cause).__name__
    password = os.environ.get(PASSWORD)
    return line.replace(password, "***") if password else line


def unusable(place: Path | str, error: BaseException) -> SearchError:
    """What to say and do where a study does not answer."""
    return SearchError(
        f"{place}: Optuna's study cannot be used: {reason(error)}. No epoch is lost, the search's "
        "own log does not need it. Put this right, or name another place: --set storage=URL, or "
        "null for a journal file."
    )


def watched_by(experiment: Path, url: str | None) -> str:
    """The command that shows the study in optuna-dashboard."""
    return f"optuna-dashboard {shlex.quote(url or str(experiment / JOURNAL))}"


class _Journal(JournalStorage):
    """A journal of one study that knows from where on trials may wait to be asked for.

    Optuna looks for them before each trial, and would walk through all there ever were.
    """

    def __init__(self, path: Path) -> None:
        # O_EXCL rather than a symlink: shared file systems of clusters do not all have symlinks.
        super().__init__(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        self._begun = 0  # no trial with a lower number waits

    @override
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if deepcopy or states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        waiting = list[FrozenTrial]()
        for number in count(self._begun):
            try:
                trial_id = self.get_trial_id_from_study_id_trial_number(study_id, number)
            except KeyError:
                return waiting
            trial = self.get_trial(trial_id)
            if trial.state == TrialState.WAITING:
                waiting.append(trial)
            elif not waiting:
                self._begun = number + 1
        return waiting


def _study(storage: BaseStorage, settings: Study, name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
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
