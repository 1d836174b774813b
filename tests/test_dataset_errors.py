"""A bad file is one sentence: the file, what is wrong, where in it, what to do."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_files import (
    SYNTHETIC,
    N,
    T,
    write_pdebench,
    write_prototype,
    write_rollouts,
    write_spinlock,
    write_the_well,
)

from spinlock.data import open_dataset
from spinlock.errors import DatasetError


def refused(path: Path) -> str:
    """What `open_dataset` says, which always begins with the file."""
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(".")
    return str(caught.value)


def edited(path: Path, write: Callable[[Path], None], edit: Callable[[h5py.File], None]) -> Path:
    write(path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def replaced(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)

    return edit


def test_a_missing_file_is_named_with_its_neighbours(tmp_path):
    write_rollouts(tmp_path / "there.h5")
    message = refused(tmp_path / "absent.h5")
    assert "there is no such file" in message
    assert "there.h5" in message


def test_a_directory_is_not_a_file(tmp_path):
    assert "this is a directory" in refused(tmp_path)


def test_an_empty_file_is_told_from_one_of_another_kind(tmp_path):
    empty, other = tmp_path / "empty.h5", tmp_path / "notes.h5"
    empty.touch()
    other.write_text("PK these are notes")
    assert "empty (0 bytes)" in refused(empty)
    assert "not an HDF5 file; it begins with the bytes b'PK these'" in refused(other)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path):
    path = tmp_path / "locked.h5"
    write_rollouts(path)
    path.chmod(0)
    assert "no permission" in refused(path)


@pytest.mark.parametrize("layout", SYNTHETIC)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_cut_short_is_truncated_not_misread(tmp_path, layout, kept):
    path = tmp_path / "cut.h5"
    SYNTHETIC[layout].write(path)
    os.truncate(path, int(path.stat().st_size * kept))
    assert "truncated" in refused(path)


def test_damage_inside_a_compressed_field_names_the_item(tmp_path):
    path = tmp_path / "damaged.h5"
    with h5py.File(path, "w") as file:
        fields = np.random.default_rng(0).random((4, 1, 3, 1, 16, 16), dtype=np.float32)
        file.create_dataset(
            "trajectories", data=fields, chunks=(1, *fields.shape[1:]), compression=4
        )
        place = file["trajectories"].id.get_chunk_info(2).byte_offset
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff" * 64)
    dataset = open_dataset(path)
    dataset.trajectories([0, 1, 3])
    with pytest.raises(DatasetError, match=r"item 2 \(operator 2, realization 0\): damaged"):
        dataset.trajectories([1, 2])


def test_hdf5_without_content_and_of_unknown_structure_are_told_apart(tmp_path):
    with h5py.File(tmp_path / "nothing.h5", "w"):
        pass
    with h5py.File(tmp_path / "else.h5", "w") as file:
        file["temperatures"] = np.zeros(3)
    assert "nothing in it" in refused(tmp_path / "nothing.h5")
    message = refused(tmp_path / "else.h5")
    assert "It holds temperatures" in message
    assert "the_well" in message


MISSING = [
    (write_spinlock, "inputs/fields"),
    (write_spinlock, "outputs/fields"),
    (write_spinlock, "parameters/conditioning"),
    (write_spinlock, "seeds"),
    (write_spinlock, "metadata/completed"),
    (write_the_well, "scalars"),
    (write_the_well, "scalars/nu"),
    (write_the_well, "dimensions"),
    (write_the_well, "dimensions/x"),
    (write_the_well, "t0_fields/density"),
    (write_prototype, "inputs/fields"),
    (write_prototype, "inputs"),
    (write_prototype, "parameters/params"),
    (write_prototype, "outputs/fields"),
    (write_prototype, "metadata"),
    (write_pdebench, "0001/data"),
]


@pytest.mark.parametrize(("write", "name"), MISSING)
def test_a_missing_dataset_is_named(tmp_path, write, name):
    def edit(file: h5py.File) -> None:
        del file[name]

    message = refused(edited(tmp_path / "file.h5", write, edit))
    assert re.search(rf"'({name}|{name}/.*)' is missing", message)


WRONG = [
    (write_spinlock, "outputs/fields", (N, 5, 2, 4, 4), "has 5 axes"),
    (write_spinlock, "outputs/fields", (N, 2, 5, 2, 4, 5), "channels and grid must agree"),
    (write_spinlock, "inputs/fields", (N + 1, 2, 4, 4), "must describe the same operators"),
    (write_spinlock, "outputs/fields", (0, 2, 5, 2, 4, 4), "holds no samples"),
    (write_the_well, "t0_fields/density", (N, T, 4), r"has shape (3, 5, 4)"),
    (write_the_well, "t0_fields/density", (N, T + 1, 4, 6), "differ in frames"),
    (write_the_well, "t1_fields/velocity", (N, T, 4, 6, 3), "call for (3, T, 4, 6, 2)"),
    (write_the_well, "scalars/nu", (N + 1,), "call for (3,)"),
    (write_prototype, "inputs/fields", (N, 4, 4), "expected 4: [N, C, H, W]"),
    (write_prototype, "outputs/fields", (N, 2, T, 2, 8, 8), "channels and grid must agree"),
    (write_prototype, "parameters/params", (N, 3), "names 4: num_layers"),
    (write_prototype, "features/temporal/features", (N - 1, T, 3), "same operators"),
    (write_rollouts, "trajectories", (N, T, 2, 4, 6), "has 5 axes"),
    (write_pdebench, "0001/data", (T, 4, 6), "expected 4: [T, Y, X, C]"),
    (write_pdebench, "0001/data", (T, 4, 7, 2), "all groups must agree"),
]


@pytest.mark.parametrize(("write", "name", "shape", "words"), WRONG)
def test_a_wrong_rank_or_shape_tells_expected_and_found(tmp_path, write, name, shape, words):
    edit = replaced(name, np.zeros(shape, np.float32))
    assert words in refused(edited(tmp_path / "file.h5", write, edit))


def test_a_field_of_text_is_not_numbers(tmp_path):
    edit = replaced("inputs/fields", np.full((N, 2, 4, 6), b"text"))
    assert "expected numbers" in refused(edited(tmp_path / "file.h5", write_prototype, edit))


def test_no_samples_are_refused_in_the_well_too(tmp_path):
    def edit(file: h5py.File) -> None:
        file.attrs["n_trajectories"] = 0

    assert "no samples" in refused(edited(tmp_path / "file.h5", write_the_well, edit))


def test_another_schema_version_is_refused_with_both_numbers(tmp_path):
    def edit(file: h5py.File) -> None:
        file.attrs["schema_version"] = 99

    message = refused(edited(tmp_path / "file.h5", write_spinlock, edit))
    assert "schema version 99; this version of Spinlock reads 1" in message


def test_an_unfinished_file_is_refused_with_its_count(tmp_path):
    def edit(file: h5py.File) -> None:
        file["metadata/completed"][()] = 1

    message = refused(edited(tmp_path / "file.h5", write_spinlock, edit))
    assert f"1 of {N} operators are written" in message


def test_mixed_grid_sizes_of_the_prototype_are_refused(tmp_path):
    edit = replaced("metadata/grid_sizes", np.array([32, 64, 64]))
    assert "mixes 32, 64" in refused(edited(tmp_path / "file.h5", write_prototype, edit))


def test_three_dimensions_and_scalars_that_vary_in_time_are_refused(tmp_path):
    def solid(file: h5py.File) -> None:
        file["dimensions"].attrs["spatial_dims"] = ["x", "y", "z"]

    def pulsing(file: h5py.File) -> None:
        file["scalars/nu"].attrs["time_varying"] = True

    assert "3 spatial dimensions" in refused(edited(tmp_path / "a.h5", write_the_well, solid))
    assert "varies in time" in refused(edited(tmp_path / "b.h5", write_the_well, pulsing))


def test_asking_a_feature_only_file_for_trajectories_says_what_it_has(tmp_path):
    write_prototype(tmp_path / "features.h5", trajectories=False)
    dataset = open_dataset(tmp_path / "features.h5")
    dataset.verify()
    with pytest.raises(DatasetError, match=r"no trajectories are stored.*summary/aggregated"):
        dataset.trajectories([0])


def test_features_that_are_not_stored_are_answered_with_those_that_are(tmp_path):
    write_spinlock(tmp_path / "ours.h5")
    with pytest.raises(DatasetError, match=r"'temporal' are not stored in it; stored: summary"):
        open_dataset(tmp_path / "ours.h5").features("temporal")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("write", "name", "at"),
    [
        (write_spinlock, "outputs/fields", (1, 1, 3, 1, 2, 2)),
        (write_prototype, "outputs/fields", (1, 1, 3, 1, 2, 2)),
        (write_rollouts, "trajectories", (1, 1, 3, 1, 2, 2)),
        (write_the_well, "t0_fields/density", (1, 3, 2, 2)),
        (write_pdebench, "0001/data", (3, 2, 2, 1)),
    ],
)
def test_a_value_that_is_not_finite_is_found_when_it_is_read_and_not_before(
    tmp_path, write, name, at, bad
):
    def edit(file: h5py.File) -> None:
        file[name][at] = bad

    dataset = open_dataset(edited(tmp_path / "file.h5", write, edit))
    item = dataset.info.realizations + dataset.info.realizations - 1
    channel = dataset.info.channel_names[0 if "density" in name else 1]
    place = rf"item {item} \(operator 1, .*frame 3, channel '{channel}'"
    dataset.trajectories([item], slice(0, 3))  # the bad frame is not read
    dataset.trajectories([0])
    with pytest.raises(DatasetError, match=place):
        dataset.trajectories([0, item], slice(1, None, 2))
    with pytest.raises(DatasetError, match=place):
        dataset.verify()


def test_initial_fields_and_parameters_are_checked_too(tmp_path):
    def edit(file: h5py.File) -> None:
        file["inputs/fields"][2, 1, 0, 0] = np.inf
        file["parameters/conditioning"][1, 2] = np.nan

    dataset = open_dataset(edited(tmp_path / "file.h5", write_spinlock, edit))
    with pytest.raises(DatasetError, match=r"item 5 \(operator 2, realization 1\)"):
        dataset.initial([0, 5])
    with pytest.raises(DatasetError, match=r"parameter 'q=odd' of operator 1 is nan"):
        dataset.parameters([0])


def test_a_file_replaced_behind_the_readers_back_is_noticed(tmp_path):
    path = tmp_path / "file.h5"
    write_rollouts(path)
    dataset = open_dataset(path)
    write_pdebench(tmp_path / "other.h5")
    shutil.move(tmp_path / "other.h5", path)
    with pytest.raises(DatasetError, match="replaced by another file"):
        dataset.trajectories([0])
