"""One trial of a search, as its events have made it so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from spinlock.search.events import Sizing, State, Verdict
from spinlock.search.parameter import Scalar
from spinlock.search.pareto import Scores, best_epoch
from spinlock.search.space import Objective


@dataclass
class Trial:
    """One trial so far. `history` holds the metrics of every epoch that reported, in order."""

    number: int
    parameters: dict[str, Scalar]
    suggested: float
    attempts: int = 0
    started: float | None = None
    reported: float | None = None  # the first report
    ended: float | None = None
    spent: int = 0  # epochs of the whole search until it ended
    crashes: list[str] = field(default_factory=list)
    forgiven: int = 0  # of these, no kills, before it was taken up again
    reopened: tuple[int, int] | None = None  # crashes and epochs when it was, after it had FAILED
    preemptions: list[tuple[int, str]] = field(default_factory=list)  # after which epoch, and why
    displaced: bool = False  # by the last of these, and not taken up since
    history: dict[int, dict[str, float]] = field(default_factory=dict)
    verdict: Verdict | None = None
    spared: Verdict | None = None  # what an audited trial would have ended by
    paused: int | None = None  # the rung at which it waits
    source: str | None = None  # the earlier search whose trial it is, of a prior
    sizing: Sizing | None = None
    micro_batch: int | None = None  # with which it goes on; None before its size is known
    held: float = 0.0  # bytes that its present attempt was to take
    killed: int = 0  # so often by a memory monitor
    beside: bool = False  # since its last report it was killed beside a larger one, not counted
    too_large: bool = False  # killed though its micro-batch was a single sample
    _scored: tuple[tuple[int, tuple[Objective, ...]], tuple[int, Scores] | None] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def epochs(self) -> int:
        """The last epoch that it reported; not each one before it need have."""
        return max(self.history, default=0)

    @property
    def tried_again(self) -> bool:
        """Whether it was taken up again after it had FAILED, and has trained no epoch since."""
        return self.reopened is not None and self.reopened[1] == self.epochs

    @property
    def predicted(self) -> float:
        """Bytes at its peak with the micro-batch with which it goes on; 0 without a plan."""
        if self.sizing is None or self.micro_batch is None:
            return 0.0
        return self.sizing.predicted(self.micro_batch)

    @property
    def starting(self) -> float | None:
        """Seconds from its start to its first batch; None before it has reported."""
        if self.started is None or self.reported is None or not self.history:
            return None
        first = next(iter(self.history.values()))
        return max(0.0, self.reported - self.started - first.get("seconds", 0.0))

    def state(self, *, live: bool = True) -> State:
        """Where it stands; under way is RUNNING or PREEMPTED while the search is `live`, else
        INTERRUPTED.
        """
        if self.verdict is not None:
            return self.verdict.state
        if self.paused is not None:
            return State.PAUSED
        if not live:
            return State.INTERRUPTED
        return State.PREEMPTED if self.displaced else State.RUNNING

    def best(self, objectives: Sequence[Objective]) -> tuple[int, Scores] | None:
        """The epoch that it stands for and that one's scores; None before a finite one.

        With one objective the best, the first of equals; with several see `best_epoch`.
        """
        asked = self.epochs, tuple(objectives)
        if self._scored is None or self._scored[0] != asked:
            self._scored = asked, best_epoch(self.history, objectives)
        return self._scored[1]
