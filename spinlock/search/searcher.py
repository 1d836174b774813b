"""Ray Tune's searcher: hands out the unfinished trials first, then what the moves say.

Which Tune trial is which of ours is known only here and in the trial's own config; a Tune trial
id means nothing outside one session.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ray.tune.search import Searcher
from typing_extensions import override

from spinlock.errors import ConfigError
from spinlock.search.book import Book
from spinlock.search.moves import Promote, next_move
from spinlock.search.sampler import Sampler
from spinlock.search.trial import Trial


class BookSearcher(Searcher):
    """Suggests from the book and the sampler. `assign` packs a trial for Tune to carry."""

    def __init__(
        self,
        book: Book,
        sampler: Sampler,
        *,
        concurrent: int,
        assign: Callable[[Trial], dict[str, Any]],
    ) -> None:
        super().__init__()
        self._book, self._sampler, self._assign = book, sampler, assign
        self._concurrent = concurrent
        self._again = [trial.number for trial in book.ledger.under_way]
        self._running: dict[str, int] = {}

    @override
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self._running) >= self._concurrent:
            return None
        while (trial := self._next()) is not None:
            if trial == "end":
                finished: str = Searcher.FINISHED
                return finished
            try:
                config = self._assign(trial)
            except ConfigError as error:  # each value is possible, and their combination is not
                self._book.reject(trial.number, str(error))
                self._tell(trial.number)
                continue
            self._running[trial_id] = trial.number
            return config
        return None

    def _next(self) -> Trial | Literal["end"] | None:
        """The trial to train next; None when there is none yet."""
        if self._again and self._book.ledger.broken is None:
            return self._book.ledger.trials[self._again.pop(0)]
        match next_move(self._book.ledger):
            case Promote(number, rung):
                trial = self._book.promote(number, rung)
                self._tell(number)
                return trial
            case "new":
                return self._book.suggested(self._sampler.ask(len(self._book.ledger.trials)))
            case "end" if self._running:
                return None  # one of them may need another attempt, and Tune asks once it has ended
            case "end":
                for number in self._book.conclude():
                    self._tell(number)
                return "end"
        return None

    @override
    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True  # counted above, so Tune needs no limiter of its own

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._tell(self._running[trial_id])

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune's own result is not asked: the book has the verdict already."""
        number = self._running.pop(trial_id)
        trial = self._book.ledger.trials[number]
        if error and trial.verdict is None and trial.paused is None:
            self._again.append(number)  # another attempt, which the book allows
        self._tell(number)

    @override
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("The state of this search is its events.jsonl.\n")

    @override
    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its events.jsonl, not by Tune")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles a snapshot that is never read back; Optuna's study must not be in it.
        return self.__dict__ | {"_sampler": None, "_book": None, "_assign": None}

    def _tell(self, number: int) -> None:
        self._sampler.tell(self._book.ledger.trials[number])
