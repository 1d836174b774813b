"""Where a search is kept: its own directory, or an answer."""

from pathlib import Path

import pytest

from spinlock.errors import SpinlockError
from spinlock.search.study import _alone


def test_a_new_or_empty_directory_and_that_of_a_search_are_taken(tmp_path: Path) -> None:
    for place in (tmp_path / "new" / "search", tmp_path / "empty"):
        if place.name == "empty":
            place.mkdir()
        for _ in ("first", "again"):
            with _alone(place):
                assert (place / "lock").exists()


def test_a_second_driver_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    with (
        _alone(tmp_path / "search"),
        pytest.raises(SpinlockError, match="another driver runs this search"),
        _alone(tmp_path / "search"),
    ):
        pass


def test_a_file_and_a_directory_of_other_things_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpinlockError, match="cannot be the directory"), _alone(tmp_path / "file"):
        pass
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(SpinlockError, match="holds other things"), _alone(other):
        pass
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
