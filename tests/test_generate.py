"""Generation: exact, whole or absent, and indifferent to kills."""

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dataset_files import plan, rows

from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, Progress, generate
from spinlock.data.writer import DatasetWriter
from spinlock.domains.cno import CNOConfig
from spinlock.domains.parameters import Integer
from spinlock.errors import DatasetError, GroundTruthError
from spinlock.features import FeatureConfig, extract

FORK = multiprocessing.get_context("fork")
DOMAIN = CNOConfig(
    channels=2,
    realizations=2,
    num_layers=Integer(low=2, high=3),
    base_channels=Integer(low=4, high=6),
)


def small(**changes) -> GenerateConfig:
    facts = {"domain": DOMAIN, "operators": 6, "grid": 8, "frames": 4, "batch": 2}
    return GenerateConfig(**(facts | changes))


def content(path: Path) -> dict[str, bytes]:
    """Every dataset's bytes but the provenance, which tells when the file was made."""
    found = {}

    def visit(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset) and name != "metadata/provenance":
            value = node[()]
            found[name] = value if isinstance(value, bytes) else np.asarray(value).tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def leftovers(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "cno.h5"
    generate(small(operators=12, features=True), path)
    return path


def test_the_info_given_is_that_of_the_file(tmp_path):
    path = tmp_path / "deep" / "cno.h5"
    info = generate(small(), path)
    assert info == open_dataset(path).info
    assert (info.layout, info.domain, info.operators, info.realizations) == (
        "spinlock",
        "cno",
        6,
        2,
    )
    assert (info.frames, info.channels, info.height, info.width) == (4, 2, 8, 8)
    assert leftovers(path) == []


def test_parameters_and_seeds_in_the_file_replay_its_trajectories_bit_for_bit(undisturbed):
    with h5py.File(undisturbed) as file:
        config = GenerateConfig.model_validate_json(file["metadata/config"][()])
        unit, seeds = file["parameters/unit"][:], file["seeds"][:]
        inputs, outputs = file["inputs/fields"][:], file["outputs/fields"][:]
    domain = config.domain.build()
    for operator in (7, 2):  # alone, in another order, from the file alone
        one = slice(operator, operator + 1)
        initial = domain.initial(seeds[one], config.grid)
        fields = domain.rollout(unit[one], seeds[one], initial, config.frames)
        np.testing.assert_array_equal(initial.numpy(), inputs[one])
        np.testing.assert_array_equal(fields.detach().numpy(), outputs[one])


def test_conditioning_and_physical_values_follow_from_the_unit_cube(undisturbed):
    domain = DOMAIN.build()
    with h5py.File(undisturbed) as file:
        unit = file["parameters/unit"][:]
        table = file["parameters/physical"][:]
        assert tuple(file["parameters/unit"].attrs["names"]) == domain.parameter_names
        np.testing.assert_array_equal(file["parameters/conditioning"][:], domain.conditioning(unit))
    for row, values in zip(table, domain.physical(unit), strict=True):
        for name, value in values.items():
            found = row[name].decode() if isinstance(value, str) else row[name]
            assert found == value


def test_stored_features_are_those_of_the_stored_trajectories(tmp_path):
    path = tmp_path / "cno.h5"
    info = generate(small(features=True, dtype="float16"), path)
    dataset = open_dataset(path)
    for family in info.features:
        config = FeatureConfig(families=(family,))
        found = extract(dataset.trajectories(range(len(dataset))), config)
        stored = torch.from_numpy(dataset.features(family)).reshape(len(dataset), -1)
        torch.testing.assert_close(found, stored, rtol=0, atol=0)
        assert len(dataset.feature_names(family)) == stored.shape[1]


def test_the_batch_does_not_alter_the_content(tmp_path, undisturbed):
    generate(small(operators=12, features=True, batch=5), tmp_path / "cno.h5")
    assert content(tmp_path / "cno.h5") == content(undisturbed)


def test_progress_counts_to_the_end_with_an_estimate(tmp_path):
    reports: list[Progress] = []
    generate(small(operators=5), tmp_path / "cno.h5", progress=reports.append)
    assert [(r.done, r.total) for r in reports] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert reports[0].remaining is None
    assert reports[1].remaining == pytest.approx(reports[1].seconds / 2 * 3)
    assert reports[-1].remaining == 0


def killed(target, path: Path, *, signs: int, delay: float) -> bool:
    """Run `target(path, sign)` in a process of its own, and kill it after so many signs of life.

    Whether the kill came before its end.
    """
    listener, speaker = FORK.Pipe(duplex=False)
    process = FORK.Process(target=target, args=(path, lambda: speaker.send_bytes(b".")))
    process.start()
    speaker.close()
    try:
        for _ in range(signs):
            listener.recv_bytes()
        time.sleep(delay)
    except EOFError:
        pass  # it has ended
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _generate(path: Path, sign) -> None:
    config = small(operators=12, features=True, batch=1)
    generate(config, path, progress=lambda _: sign())


def test_a_generation_killed_again_and_again_equals_an_undisturbed_one(tmp_path, undisturbed):
    path, chance = tmp_path / "cno.h5", random.Random(0)
    kills = 0
    while not path.exists():
        kills += killed(_generate, path, signs=chance.randint(0, 3), delay=chance.uniform(0, 0.02))
    assert kills > 2
    assert content(path) == content(undisturbed)
    assert leftovers(path) in ([], [".cno.h5.lock"])  # the last kill may come after the rename


def _write(path: Path, sign) -> None:
    made = plan(operators=400, grid=32)
    arrays = rows(made)
    with DatasetWriter(path, made) as writer:
        while writer.completed < 400:
            sign()
            one = slice(writer.completed, writer.completed + 1)
            writer.append({name: values[one] for name, values in arrays.items()})
        writer.finish()


def test_what_the_count_says_is_there_after_a_kill_at_any_instant(tmp_path):
    path, chance = tmp_path / "file.h5", random.Random(1)
    partial = path.with_name("file.h5.partial")
    expected = rows(plan(operators=400, grid=32))
    counts = [0]
    while len(counts) <= 12 and killed(
        _write, path, signs=chance.randint(1, 30), delay=chance.uniform(0, 0.003)
    ):
        with h5py.File(partial) as file:
            counts.append(int(file["metadata/completed"][()]))
            for name, values in expected.items():
                done = slice(0, counts[-1])
                np.testing.assert_array_equal(file[name][done], values[done])
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    assert not killed(_write, path, signs=500, delay=0)
    with h5py.File(path) as file:
        for name, values in expected.items():
            np.testing.assert_array_equal(file[name][:], values)


def test_a_continued_run_makes_only_what_is_missing(tmp_path):
    path = tmp_path / "cno.h5"

    def stop(report: Progress) -> None:
        if report.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(small(), path, progress=stop)
    assert leftovers(path) == ["cno.h5.partial"]
    with pytest.raises(DatasetError, match="4 of 6 operators are written"):
        open_dataset(path.with_name("cno.h5.partial"))
    reports: list[Progress] = []
    generate(small(batch=1), path, progress=reports.append)
    assert [r.done for r in reports] == [4, 5, 6]
    generate(small(), tmp_path / "whole.h5")
    assert content(path) == content(tmp_path / "whole.h5")


def test_a_partial_file_of_another_configuration_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "cno.h5"

    def stop(report: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(small(), path, progress=stop)
    with pytest.raises(DatasetError, match=r"another configuration \(seed: 0 there, 7 now\)"):
        generate(small(seed=7), path)


def test_a_partial_file_of_other_versions_is_refused(tmp_path):
    path, old = tmp_path / "file.h5", {"versions": {"spinlock": "-1"}}
    with DatasetWriter(path, plan(provenance=old)):
        pass
    with (
        pytest.raises(DatasetError, match=r"begun with versions .*-1"),
        DatasetWriter(path, plan()),
    ):
        pass


def test_what_a_kill_during_the_very_start_leaves_is_cleared(tmp_path):
    (tmp_path / ".file.h5.partial.123.partial").write_text("half a header")
    with DatasetWriter(tmp_path / "file.h5", plan()):
        pass
    assert leftovers(tmp_path / "file.h5") == ["file.h5.partial"]


def test_anything_else_in_the_place_of_the_partial_file_is_refused(tmp_path):
    (tmp_path / "file.h5.partial").write_text("my notes")
    with (
        pytest.raises(DatasetError, match="not a partial dataset"),
        DatasetWriter(tmp_path / "file.h5", plan()),
    ):
        pass
    assert (tmp_path / "file.h5.partial").read_text() == "my notes"


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "cno.h5"
    path.write_text("precious")
    with pytest.raises(DatasetError, match="exists already"):
        generate(small(), path)
    assert path.read_text() == "precious"
    assert leftovers(path) == []


def test_two_processes_cannot_write_one_file(tmp_path):
    path = tmp_path / "file.h5"
    with (
        DatasetWriter(path, plan()),
        pytest.raises(DatasetError, match="another process is writing it"),
        DatasetWriter(path, plan()),
    ):
        pass


def test_a_value_beyond_float16_is_an_error_with_its_operator(tmp_path):
    domain = DOMAIN.model_copy(update={"limit": 1e9, "dt": 1e7})
    config = small(domain=domain, dtype="float16")
    with pytest.raises(GroundTruthError, match=r"operator \d.* beyond the range of float16"):
        generate(config, tmp_path / "cno.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_runaway_leaves_nothing_in_the_way_of_a_milder_family(tmp_path):
    path = tmp_path / "cno.h5"
    with pytest.raises(GroundTruthError, match="beyond the limit"):
        generate(small(domain=DOMAIN.model_copy(update={"dt": 1e7})), path)
    generate(small(), path)
    assert leftovers(path) == []


def test_features_need_frames(tmp_path):
    with pytest.raises(ValueError, match="features need at least 3 frames, not 2"):
        small(features=True, frames=2)


def _with_a_small_disk(path: Path, allowed: int) -> None:
    """The limit on a file's size stands in for a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))
    with pytest.raises(DatasetError, match=r"cannot be written: .*It takes \d"):
        generate(small(grid=64), path)
    assert leftovers(path) == []


@pytest.mark.parametrize("allowed", [30_000, 1_200_000])
def test_a_disk_without_room_is_one_error_before_the_first_operator(tmp_path, allowed):
    process = FORK.Process(target=_with_a_small_disk, args=(tmp_path / "cno.h5", allowed))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_directory_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        generate(small(), tmp_path / "file" / "cno.h5")


@pytest.mark.parametrize("grid", [4, 7])
def test_features_need_a_grid_before_anything_is_made(grid):
    with pytest.raises(ValueError, match=f"features need a grid of at least 8, not {grid}"):
        small(features=True, grid=grid)


def test_more_than_the_disk_holds_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(DatasetError, match=r"100000000000 operators .* GB are free"):
        generate(small(operators=10**11), tmp_path / "cno.h5")
    assert list(tmp_path.iterdir()) == []


def _with_a_small_disk_and_nothing_made(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    with pytest.raises(DatasetError) as caught:
        generate(small(grid=64), path)
    assert "already made" not in str(caught.value)
    assert str(caught.value).endswith("MB. Put this right and run the same command again.")


def test_nothing_is_said_to_be_kept_where_nothing_was_made(tmp_path):
    process = FORK.Process(target=_with_a_small_disk_and_nothing_made, args=(tmp_path / "cno.h5",))
    process.start()
    process.join()
    assert process.exitcode == 0
