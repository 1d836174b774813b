"""SIGTERM, which is how Ray stops a job, is a Ctrl-C to a search, wherever it stands."""

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searching import Regression
from test_search_budget import wanted

from spinlock.search.study import run

pytestmark = pytest.mark.slow


@pytest.fixture
def signals_put_back() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Terminating(io.StringIO):
    """What a search says goes here; the line that precedes the first trial brings a SIGTERM."""

    def write(self, text: str) -> int:
        if text.startswith("tensorboard"):
            signal.raise_signal(signal.SIGTERM)
        return super().write(text)


@pytest.mark.usefixtures("signals_put_back")
@pytest.mark.parametrize(
    ("on_sigint", "on_sigterm", "closed"),
    [
        pytest.param(signal.default_int_handler, signal.SIG_DFL, "interrupted", id="terminal"),
        pytest.param(signal.SIG_IGN, signal.SIG_DFL, "interrupted", id="background"),
        pytest.param(signal.default_int_handler, signal.SIG_IGN, "finished", id="ignored"),
    ],
)
def test_a_sigterm_between_rays_start_and_the_first_trial_ends_the_session_or_is_ignored(
    tmp_path: Path, on_sigint: Any, on_sigterm: signal.Handlers, closed: str
) -> None:
    """Ray has put its own handler by then, which would exit at once."""
    signal.signal(signal.SIGINT, on_sigint)
    signal.signal(signal.SIGTERM, on_sigterm)
    study = wanted().model_copy(update={"trials": 1})
    console = Console(file=Terminating())
    found = run(study, Regression(), tmp_path, dashboard=False, console=console)
    assert found.ledger.sessions[-1].closed == closed
    assert signal.getsignal(signal.SIGTERM) == on_sigterm
