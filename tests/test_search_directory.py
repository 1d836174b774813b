"""Where a search is kept: its own directory, or an answer."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spinlock.errors import SpinlockError
from spinlock.search.alone import LOCK, alone, deserted
from spinlock.search.ledger import EVENTS


def test_a_new_or_empty_directory_and_that_of_a_search_are_taken(tmp_path: Path) -> None:
    for place in (tmp_path / "new" / "search", tmp_path / "empty"):
        if place.name == "empty":
            place.mkdir()
        for _ in ("first", "again"):
            with alone(place, EVENTS):
                assert (place / "lock").exists()


def test_a_second_driver_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "search", EVENTS),
        pytest.raises(SpinlockError, match=f"process {os.getpid()} on "),
        alone(tmp_path / "search", EVENTS),
    ):
        pass


HOLDS = """
import sys
from pathlib import Path
from spinlock.search.alone import alone
with alone(Path(sys.argv[1]), "events.jsonl"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_experiment_is_deserted_once_its_driver_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "search"
    assert not deserted(place), "of what was never held nothing is known"
    words = [sys.executable, "-c", HOLDS, str(place)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        assert not deserted(place)
        driver.kill()
        driver.wait()
        assert deserted(place)
    (place / LOCK).write_text("process 1 on another machine\n")
    assert not deserted(place), "whose file system need not tell of its lock"


def test_who_looks_at_a_lock_keeps_no_driver_from_it(tmp_path: Path) -> None:
    with alone(tmp_path / "search", EVENTS):
        pass
    looks = (tmp_path / "search" / LOCK).open()
    fcntl.flock(looks, fcntl.LOCK_SH)
    threading.Timer(0.1, looks.close).start()
    with alone(tmp_path / "search", EVENTS):
        pass


def test_a_file_and_a_directory_of_other_things_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(SpinlockError, match="cannot be the directory"),
        alone(tmp_path / "file", EVENTS),
    ):
        pass
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(SpinlockError, match="holds other things"), alone(other, EVENTS):
        pass
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
