"""Every layout, made here or real, through the same tests."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dataset_files import (
    REAL,
    SYNTHETIC,
    H,
    Layout,
    M,
    N,
    T,
    write_prototype,
    write_spinlock,
    write_the_well,
)

from spinlock.data import TrajectoryDataset, open_dataset
from spinlock.data import fingerprint as fingerprints


@pytest.fixture(scope="session", params=[*SYNTHETIC, *REAL])
def case(request, tmp_path_factory) -> tuple[Layout, Path]:
    """A layout and a file of it."""
    if request.param in SYNTHETIC:
        layout = SYNTHETIC[request.param]
        path = tmp_path_factory.mktemp("layouts") / f"{request.param}.h5"
        layout.write(path)
        return layout, path
    return REAL[request.param], request.getfixturevalue("real_data") / request.param


@pytest.fixture(scope="session")
def truth(case) -> dict[str, np.ndarray]:
    layout, path = case
    with h5py.File(path, "r") as file:
        return {
            "trajectories": layout.trajectories(file),
            "initial": layout.initial(file),
            "parameters": layout.parameters(file),
        }


def test_every_sample_equals_the_files_own_numbers(case, truth):
    layout, path = case
    dataset = open_dataset(path)
    items = range(len(dataset))
    assert dataset.info.layout == layout.name
    found = dataset.trajectories(items)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), truth["trajectories"])
    np.testing.assert_array_equal(dataset.initial(items).numpy(), truth["initial"])
    np.testing.assert_array_equal(dataset.parameters(items).numpy(), truth["parameters"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rd_grayscott_exponax.h5", "wave_medium_deepwave.h5"])
def test_large_real_files_equal_their_own_numbers(real_data, name):
    dataset = open_dataset(real_data / name)
    dataset.verify()
    with h5py.File(real_data / name) as file:
        expected = REAL["ns_kolmogorov_exponax.h5"].trajectories(file)
    for item in range(len(dataset)):
        np.testing.assert_array_equal(dataset.trajectories([item])[0].numpy(), expected[item])


def test_the_facts_agree_with_the_numbers(case, truth):
    info = open_dataset(case[1]).info
    shape = (info.items, info.frames, info.channels, info.height, info.width)
    assert truth["trajectories"].shape == shape
    assert len(info.channel_names) == info.channels
    assert truth["parameters"].shape == (info.items, len(info.parameter_names))


def test_a_window_is_the_same_frames_of_the_whole(case, truth):
    dataset = open_dataset(case[1])
    frames = dataset.info.frames
    windows = [slice(2, 4), slice(-2, None), slice(0, 0), slice(1, frames, 3), slice(0, 10**9)]
    for window in windows:
        found = dataset.trajectories([1, 0, 1], window).numpy()
        np.testing.assert_array_equal(found, truth["trajectories"][[1, 0, 1]][:, window])


def test_no_items_give_empty_tensors_of_the_right_shape(case):
    dataset = open_dataset(case[1])
    info = dataset.info
    state = (info.channels, info.height, info.width)
    assert dataset.trajectories([]).shape == (0, info.frames, *state)
    assert dataset.initial([]).shape == (0, *state)
    assert dataset.parameters([]).shape == (0, len(info.parameter_names))


def test_an_item_outside_is_an_index_error(case):
    dataset = open_dataset(case[1])
    for item in (-1, len(dataset)):
        with pytest.raises(IndexError, match=f"item {item} is not in 0"):
            dataset.trajectories([item])


def test_a_pickled_dataset_reads_the_same(case, truth):
    dataset = open_dataset(case[1])
    dataset.trajectories([0])  # its handle is open now
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.info == dataset.info
    np.testing.assert_array_equal(copy.trajectories([1]).numpy(), truth["trajectories"][[1]])


def _digest(dataset: TrajectoryDataset, item: int) -> tuple[int, int, float]:
    values = dataset.trajectories([item])
    return os.getpid(), item, float(values.double().square().sum())


def test_forked_workers_read_what_their_parent_reads_each_through_its_own_handle(case):
    dataset = open_dataset(case[1])
    expected = {item: _digest(dataset, item)[2] for item in range(2)}  # opened before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(_digest, [(dataset, item) for item in (0, 1) * 8], chunksize=1)
    assert os.getpid() not in {process for process, _, _ in found}
    assert all(expected[item] == value for _, item, value in found)


def test_verify_accepts_a_whole_file(case):
    open_dataset(case[1]).verify()


def test_the_name_and_suffix_of_a_file_do_not_matter(case, tmp_path):
    layout, path = case
    if path.stat().st_size > 20e6:
        pytest.skip("the small files show it")
    other = shutil.copy(path, tmp_path / "trajectories.pdf")
    assert open_dataset(other).info.layout == layout.name


def test_a_feature_only_prototype_gives_initial_fields_parameters_and_features(tmp_path):
    path = tmp_path / "features.h5"
    write_prototype(path, trajectories=False)
    dataset = open_dataset(path)
    info = dataset.info
    assert (info.operators, info.realizations, info.frames, info.height) == (N, M, 0, H)
    assert info.parameter_kind == "unit"
    # the prototype's order, not the file's
    assert info.parameter_names == ("num_layers", "base_channels", "noise_scale", "update_policy")
    with h5py.File(path) as file:
        inputs = file["inputs/fields"][:].repeat(M, axis=0)
        np.testing.assert_array_equal(dataset.initial(range(len(dataset))).numpy(), inputs)
    assert info.features == ("summary/aggregated", "summary/per_trajectory", "temporal")


def test_prototype_feature_names_are_given_only_when_they_account_for_every_column(tmp_path):
    path = tmp_path / "features.h5"
    write_prototype(path)
    dataset = open_dataset(path)
    assert dataset.feature_names("summary/per_trajectory") == (
        "temporal.a",
        "temporal.b",
        "causality.c",
        "invariant_drift.d",
    )
    assert dataset.feature_names("temporal") == ()
    assert dataset.feature_names("summary/aggregated") == ()


def test_a_prototype_snapshot_is_a_trajectory_of_one_frame(tmp_path):
    path = tmp_path / "snapshot.h5"
    write_prototype(path, snapshot=True)
    dataset = open_dataset(path)
    assert dataset.info.frames == 1
    items = range(len(dataset))
    assert torch.equal(dataset.trajectories(items)[:, 0], dataset.initial(items))


def test_the_prototypes_documented_names_are_read_too(tmp_path):
    path = tmp_path / "documented.h5"
    write_prototype(path)
    with h5py.File(path, "r+") as file:
        file.move("parameters/params", "parameters/vectors")
        file.move("outputs/fields", "outputs/trajectories")
    dataset = open_dataset(path)
    assert dataset.info.frames == T
    dataset.verify()


@pytest.mark.parametrize("name", ["prototype_small.h5", "prototype_mid.h5"])
def test_real_feature_only_files_give_everything_they_hold(real_data, name):
    dataset = open_dataset(real_data / name)
    with h5py.File(real_data / name) as file:
        m = dataset.info.realizations
        inputs, params = file["inputs/fields"][:], file["parameters/params"][:]
        items = range(0, len(dataset), 5)
        operators = np.array(items) // m
        np.testing.assert_array_equal(dataset.initial(items).numpy(), inputs[operators])
        np.testing.assert_array_equal(dataset.parameters(items).numpy(), params[operators])
        for family in dataset.info.features:
            np.testing.assert_array_equal(
                dataset.features(family), file[f"features/{family}/features"][:]
            )
        assert len(dataset.feature_names("temporal")) == 63
        assert len(dataset.feature_names("summary/per_trajectory")) == 110


def test_static_fields_are_named_but_are_no_channel(tmp_path):
    path = tmp_path / "well.h5"
    write_the_well(path)
    info = open_dataset(path).info
    assert info.static_names == ("medium",)
    stress = ("stress_xx", "stress_xy", "stress_yx", "stress_yy")
    velocity = ("velocity_x", "velocity_y")
    assert info.channel_names == ("density", "forcing", *velocity, *stress)
    assert info.parameter_names == ("nu", "drag")


def test_half_precision_is_widened_exactly(tmp_path):
    path = tmp_path / "half.h5"
    write_spinlock(path, dtype="float16")
    dataset = open_dataset(path)
    with h5py.File(path) as file:
        fields = file["outputs/fields"][:]
    assert fields.dtype == np.float16
    found = dataset.trajectories(range(len(dataset))).numpy()
    np.testing.assert_array_equal(found, fields.reshape(found.shape).astype(np.float32))


def test_stored_features_come_with_their_names(tmp_path):
    path = tmp_path / "ours.h5"
    write_spinlock(path)
    dataset = open_dataset(path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(dataset.features("summary"), file["features/summary"][:])
    assert dataset.feature_names("summary") == ("x", "y", "z")


def test_a_fingerprint_follows_content_not_name(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write_the_well(first)
    shutil.copy(first, second)
    assert fingerprints.fingerprint(first) == fingerprints.fingerprint(second)
    with h5py.File(second, "r+") as file:
        file["t0_fields/density"][0, 0, 0, 0] += 1
    assert fingerprints.fingerprint(first) != fingerprints.fingerprint(second)


def test_a_sampled_fingerprint_says_so_and_covers_both_ends_and_the_size(tmp_path):
    path = tmp_path / "huge.bin"
    size = fingerprints.WHOLE_UP_TO + 1
    with path.open("wb") as stream:
        stream.truncate(size)  # sparse: takes no disk
    found = {fingerprints.fingerprint(path)}
    with path.open("r+b") as stream:
        for place in (0, size - 1):
            stream.seek(place)
            stream.write(b"x")
            stream.flush()
            found.add(fingerprints.fingerprint(path))
        stream.truncate(size + 1)
    found.add(fingerprints.fingerprint(path))
    path.unlink()
    assert len(found) == 4
    assert all(name.startswith("sha256-sampled:") for name in found)
