"""Whatever stands in the place of a dataset, a group or an attribute: read, or one sentence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_files import SYNTHETIC, N, write_prototype, write_spinlock, write_the_well

from spinlock.data import open_dataset
from spinlock.data.fingerprint import fingerprint
from spinlock.errors import DatasetError

VALUES = {
    "a number": 3.0,
    "a list": np.array([1, 2, 3]),
    "a list of nothing": np.zeros(0),
    "words": np.array([b"\xff", b"b"]),
    "a table": np.zeros((2, 2)),
    "a negative number": -1,
    "an empty value": h5py.Empty("f4"),
    "null in JSON": "null",
    "JSON of another shape": json.dumps({"simulation": 3, "parameter_space": [1]}),
}


def edited(path: Path, write: Callable[[Path], None], edit: Callable[[h5py.File], None]) -> Path:
    write(path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def places(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of all groups and datasets, and of all attributes with what they belong to."""
    names, attributes = [], []
    with h5py.File(path) as file:
        file.visit(names.append)
        for name in ["/", *names]:
            attributes += [(name, key) for key in file[name].attrs]
    return names, attributes


def read_all(path: Path) -> None:
    """Everything a reader offers; only a DatasetError may come of it."""
    message = ""
    try:
        dataset = open_dataset(path)
        str(dataset.verify())
        for family in dataset.info.features:
            dataset.feature_names(family)
    except DatasetError as error:
        message = str(error)
    assert message == "" or message.startswith(f"{path}: ")


def write_features(path: Path) -> None:
    write_prototype(path, trajectories=False)


WRITERS = {name: layout.write for name, layout in SYNTHETIC.items()} | {"features": write_features}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_anything_in_the_place_of_anything_is_read_or_refused_in_a_sentence(tmp_path, write):
    whole, path = tmp_path / "whole.h5", tmp_path / "odd.h5"
    write(whole)
    names, attributes = places(whole)

    def with_edit(edit: Callable[[h5py.File], None]) -> None:
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            edit(file)
        read_all(path)

    for name in names:
        for value in VALUES.values():

            def place(file: h5py.File, name: str = name, value: object = value) -> None:
                kept = dict(file[name].attrs)
                del file[name]
                file[name] = value
                file[name].attrs.update(kept)

            with_edit(place)

        def hollow(file: h5py.File, name: str = name) -> None:
            del file[name]
            file.create_group(name)

        with_edit(hollow)
    for name, key in attributes:
        for value in VALUES.values():

            def attach(
                file: h5py.File, name: str = name, key: str = key, value: object = value
            ) -> None:
                file[name].attrs[key] = value

            with_edit(attach)


def _set(name: str, key: str, value: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name].attrs[key] = value

    return edit


def _replace(name: str, value: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        kept = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(kept)

    return edit


@pytest.mark.parametrize(
    ("write", "edit", "words"),
    [
        (write_spinlock, _set("/", "schema_version", [1, 1]), "'schema_version' of '/'"),
        (write_spinlock, _replace("metadata/completed", [3, 3]), "one whole number"),
        (write_spinlock, _replace("parameters/conditioning", np.zeros(N)), "[N, P]"),
        (write_spinlock, _set("parameters/conditioning", "names", ["p"]), "1 names"),
        (write_spinlock, _set("inputs/fields", "channel_names", ["a"]), "1 names"),
        (write_spinlock, _replace("features/summary", np.zeros((N, 2))), "has 2 axes"),
        (write_prototype, _replace("features/temporal/features", 3.0), "is one value"),
        (write_features, _set("metadata", "num_realizations", [1, 2]), "one whole number"),
        (write_the_well, _replace("dimensions", np.zeros(3)), "expected a group"),
    ],
)
def test_an_oddity_is_refused_with_its_place(tmp_path, write, edit, words):
    path = edited(tmp_path / "odd.h5", write, edit)
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    assert words in str(caught.value)


def test_a_prototype_file_without_a_simulation_has_no_domain(tmp_path):
    def edit(file: h5py.File) -> None:
        config = json.loads(file["metadata"].attrs["config"])
        file["metadata"].attrs["config"] = json.dumps(config | {"simulation": None})

    path = edited(tmp_path / "file.h5", write_prototype, edit)
    assert open_dataset(path).info.domain == ""


def test_our_own_features_must_be_finite(tmp_path):
    def edit(file: h5py.File) -> None:
        file["features/summary"][1, 1, 2] = np.nan

    path = edited(tmp_path / "file.h5", write_spinlock, edit)
    words = r"features 'summary': 1 of 18 .* 'z' of operator 1, realization 1"
    with pytest.raises(DatasetError, match=words):
        open_dataset(path).verify()


def test_features_without_a_value_in_a_foreign_file_are_counted(tmp_path):
    def edit(file: h5py.File) -> None:
        file["features/temporal/features"][:, 0] = np.nan

    found = open_dataset(edited(tmp_path / "file.h5", write_prototype, edit)).verify()
    assert found.undefined == {"temporal": (9, 45)}
    assert "finite but 9 of 45 of features 'temporal', as its layout allows." in str(found)


def test_what_was_judged_is_said(tmp_path):
    write_spinlock(tmp_path / "file.h5")
    assert str(open_dataset(tmp_path / "file.h5").verify()) == (
        "Every stored number is finite. Judged: 6 trajectories of 5 frames, initial fields, "
        "parameters, features summary."
    )


def test_a_file_has_the_fingerprint_of_its_present_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    one, times = fingerprint(path), path.stat()
    assert fingerprint(path) == one
    path.write_bytes(b"two")  # as long, and made to look as old
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(path) != one
