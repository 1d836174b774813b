"""`train-noa`'s flags: each is one key of the training configuration."""

from dataclasses import replace
from pathlib import Path

import pytest

from spinlock.data import open_dataset
from spinlock.errors import TrainingError
from spinlock.training.batches import split
from spinlock.training.config import DataConfig


def test_the_first_realizations_of_every_operator_are_taken_each_as_an_item(
    tiny_data: Path,
) -> None:
    info = replace(open_dataset(tiny_data).info, operators=4, realizations=3)
    every = DataConfig(path=tiny_data)
    for config, expected in [
        (every, [*range(12)]),
        (every.model_copy(update={"realizations": 2}), [0, 1, 3, 4, 6, 7, 9, 10]),
        (every.model_copy(update={"realizations": 1}), [0, 3, 6, 9]),
    ]:
        found = split(info, config, seed=0)
        assert sorted([*found.train, *found.validation]) == expected
        assert not {i // 3 for i in found.train} & {i // 3 for i in found.validation}


def test_more_realizations_than_the_file_has_are_refused(tiny_data: Path) -> None:
    wanted = DataConfig(path=tiny_data, realizations=2)
    with pytest.raises(TrainingError, match="asks for 2 and the file holds 1 of each operator"):
        split(open_dataset(tiny_data).info, wanted, seed=0)
