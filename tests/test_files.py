"""Files and artifacts are whole or absent."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spinlock import artifact
from spinlock.errors import ArtifactError, SpinlockError
from spinlock.files import atomic_directory, atomic_file, refuse_foreign
from spinlock.training import checkpoint


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    for text in ("first", "second"):
        with atomic_file(path) as beside:
            beside.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as beside:
            beside.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["directory", "file/below"])
def test_a_file_that_cannot_be_written_is_one_message(tmp_path: Path, place: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(SpinlockError, match=rf"{place}: cannot be written: .*another place"),
        atomic_file(tmp_path / place) as beside,
    ):
        beside.write_text("new")
    assert {path.name for path in tmp_path.rglob("*")} == {"directory", "file"}


@pytest.mark.parametrize("place", ["new/deep", "empty", "ours"])
def test_a_directory_that_is_free_or_ours_may_be_taken_and_is_not_made(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "ledger").touch()
    (tmp_path / "ours" / "notes.txt").touch()
    refuse_foreign(tmp_path / place, "a search", {"ledger"})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("thesis", "holds other things than a search, such as thesis.tex"),
        ("thesis/thesis.tex", "cannot be the directory for a search: .*thesis.tex is a file"),
        ("thesis/thesis.tex/deep", "cannot be the directory for a search: .*thesis.tex is a file"),
    ],
)
def test_a_file_and_a_directory_of_other_things_are_refused(
    tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    with pytest.raises(SpinlockError, match=said):
        refuse_foreign(tmp_path / place, "a search", {"ledger"})


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for names in (["a", "b"], ["c"]):
        with atomic_directory(path) as beside:
            for name in names:
                (beside / name).write_text(name)
        assert sorted(p.name for p in path.iterdir()) == names
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from spinlock.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def save(path: Path, kind: str = "noa") -> None:
    artifact.save(
        path,
        kind=kind,
        config={"width": 3},
        weights={"w": torch.arange(6.0).reshape(2, 3).T},
        metrics={"val/traj": 0.25},
        provenance=artifact.provenance(seed=4),
    )


def test_an_artifact_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path / "m")
    found = artifact.load(tmp_path / "m", "noa")
    assert found.config == {"width": 3}
    assert found.metrics == {"val/traj": 0.25}
    assert found.provenance["seed"] == 4
    assert torch.equal(found.weights["w"], torch.arange(6.0).reshape(2, 3).T)


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m", kind="vqvae")
    with pytest.raises(ArtifactError, match="expected a noa, found a vqvae"):
        artifact.load(tmp_path / "m", "noa")


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a Spinlock artifact"):
        artifact.load(tmp_path, "noa")


def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "artifact.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ArtifactError, match="format 99; this version reads 1"):
        artifact.load(tmp_path / "m", "noa")


@pytest.mark.parametrize("name", ["artifact.json", "weights.safetensors"])
def test_a_truncated_artifact_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=name):
        artifact.load(tmp_path / "m", "noa")


@pytest.mark.parametrize("kind", ["file", "directory", "checkpoint"])
def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"

    def write() -> None:
        if kind == "file":
            with atomic_file(path) as beside:
                beside.write_bytes(bytes(1 << 16))
        elif kind == "directory":
            with atomic_directory(path) as beside:
                (beside / "part").write_bytes(bytes(1 << 16))
        else:
            checkpoint.write(path, {"weights": torch.zeros(1 << 16)})

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        with pytest.raises(SpinlockError, match=r"x.*: cannot be written: File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
