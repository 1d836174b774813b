"""What a search opens, shows and believes: its sockets, its token, and the files it is given."""

import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import psutil
import pytest
import torch
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from test_resume_killed_driver import STUDY

from spinlock import artifact
from spinlock.config import load
from spinlock.errors import ArtifactError, ConfigError
from spinlock.files import fingerprint
from spinlock.search.causes import error_of, kept
from spinlock.search.checkpoints import SUMS, reports_in
from spinlock.search.ledger import read_ledger
from spinlock.search.scheduler import _sentence
from spinlock.search.secret import protect_token
from spinlock.search.space import Study
from spinlock.training.checkpoint import read as read_checkpoint
from spinlock.vqvae.foreign.archive import open_archive
from spinlock.vqvae.foreign.checkpoint import read_checkpoint as read_foreign

HERE = Path(__file__).parent
MARK = "SPINLOCK_TEST_OF_SECURITY"
Listener = tuple[str, str]


def marked(word: str) -> Iterator[psutil.Process]:
    """Every process that was started, however indirectly, with `word` in its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == word:
                yield process


def listeners(process: psutil.Process) -> set[Listener]:
    """Who listens, and on which address: what /proc/net/tcp and tcp6 say of its sockets."""
    return {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for Ray's sessions: its sockets need a short path."""
    path = Path(mkdtemp(prefix="ray-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_a_search_listens_on_loopback_alone_and_its_token_is_nowhere_but_in_its_file(
    tmp_path: Path, scratch: Path
) -> None:
    """With Ray Train, which has the most processes, and from a home where Ray never was."""
    home, word = tmp_path / "home", uuid4().hex
    home.mkdir()
    small = {"trials": 2, "resources": {"workers": 2, "concurrent": 1}, "start": []}
    study = tmp_path / "study.json"
    study.write_text(STUDY.model_validate(STUDY.model_dump() | small).model_dump_json())
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "output").open("wb") as output:
        driver = subprocess.Popen(
            [sys.executable, str(HERE / "searching.py"), str(tmp_path / "x"), str(study)],
            env=clean | {"HOME": str(home), "RAY_TMPDIR": str(scratch), MARK: word},
            stdout=output,
            stderr=output,
            umask=0o022,
        )
        found, commands = set[Listener](), set[str]()
        while driver.poll() is None:
            for process in marked(word):
                with suppress(psutil.Error):
                    found |= listeners(process)
                    commands |= {" ".join(process.cmdline())}
            time.sleep(0.5)
    assert driver.returncode == 0, (tmp_path / "output").read_text()
    assert len(read_ledger(tmp_path / "x").trials) == 2

    print(*sorted(found), sep="\n")
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    assert any("RayTrainWorker" in command for command in commands)
    assert [(name, at) for name, at in found if not ip_address(at).is_loopback] == []

    path = home / ".ray" / "auth_token"
    assert mode(path) == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert not any(token in command for command in commands)
    written = [file for file in (*tmp_path.rglob("*"), *scratch.rglob("*")) if file.is_file()]
    assert {"output", "events.jsonl", "gcs_server.out"} <= {file.name for file in written}
    assert [f for f in written if f != path and token.encode() in f.read_bytes()] == []


def test_the_token_is_made_for_its_owner_alone_and_one_that_was_open_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    protect_token(make=False)
    assert not path.parent.exists()
    protect_token()
    token = path.read_text()
    assert (mode(path), len(token), mode(path.parent)) == (0o600, 64, 0o700)
    assert [*path.parent.iterdir()] == [path]
    path.chmod(0o644)  # as Ray makes it
    protect_token()
    assert (mode(path), path.read_text()) == (0o600, token)

    other = tmp_path / "other"
    other.write_text("t" * 64)
    other.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    protect_token()
    assert mode(other) == 0o600


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN"])
def test_no_token_is_made_where_ray_would_not_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "disabled")
    protect_token()
    assert not [*tmp_path.iterdir()]


# Files


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.made), "w")


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_nothing_in_a_hostile_checkpoint_or_artifact_runs(tmp_path: Path) -> None:
    made, checkpoint = tmp_path / "made", tmp_path / "3" / "trainer"
    checkpoint.mkdir(parents=True)
    torch.save({"format": 1, "model": Runs(made)}, checkpoint / "checkpoint.pt")
    with pytest.raises(ArtifactError, match="damaged, or not a checkpoint"):
        read_checkpoint(checkpoint)
    (checkpoint.parent / "reports.json").write_bytes(pickle.dumps(Runs(made)))
    sums = {str(p.relative_to(checkpoint.parent)): fingerprint(p) for p in files(checkpoint.parent)}
    (checkpoint.parent / SUMS).write_text(json.dumps(sums))
    with pytest.raises(ArtifactError, match=r"reports\.json: missing or damaged"):
        reports_in(checkpoint.parent)

    kept = tmp_path / "kept"
    artifact.save(kept, kind="noa", config={}, weights={}, metrics={}, provenance={})
    for name in artifact.FILES:
        sound = (kept / name).read_bytes()
        for hostile in (pickle.dumps(Runs(made)), (checkpoint / "checkpoint.pt").read_bytes()):
            (kept / name).write_bytes(hostile)
            with pytest.raises(ArtifactError, match="damaged"):
                artifact.load(kept, "noa")
        (kept / name).write_bytes(sound)
    assert not made.exists()
    pickle.loads(pickle.dumps(Runs(made)))
    assert made.exists(), "the files were harmless, and the test proves nothing"


def test_a_study_asks_for_no_object_and_names_no_place_outside(tmp_path: Path) -> None:
    made, space = tmp_path / "made", tmp_path / "space.yaml"
    for hostile in (
        f'name: !!python/object/apply:os.system ["touch {made}"]\n',
        f'name: x\ntraining: !!python/object/new:os.system ["touch {made}"]\n',
        f'name: x\nstart: [!!python/object/apply:subprocess.check_call [["touch", "{made}"]]]\n',
    ):
        space.write_text(hostile)
        with pytest.raises(ConfigError, match=rf"{space}:\d: the YAML tag !!python/object"):
            load(Study, space)
    assert not made.exists()
    for name in ("../x", "/etc/x", "a/../../x", ".x", "..", "", "a\x00b", "a\nb"):
        space.write_text(f"name: {json.dumps(name)}\n")
        with pytest.raises(ConfigError, match="name"):
            load(Study, space)


@pytest.mark.parametrize("name", ["../made", "/made", "a/../../made", "C:\\made"])
def test_a_member_of_an_archive_is_written_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "file.pt"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(name, b"x")
        opened.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
    before = {*tmp_path.rglob("*")}
    with open_archive(path) as archive:
        assert archive.read(name) == b"x"
    with suppress(ArtifactError):
        read_foreign(path)
    assert {*tmp_path.rglob("*")} == before
    assert not Path("/made").exists()


def test_what_ended_an_attempt_is_taken_from_memory_and_not_from_what_tune_pickled(
    tmp_path: Path,
) -> None:
    """Ray lets everyone on the machine write to where the pickle lies."""

    class Attempt(TuneTrial):
        local_path = str(tmp_path)

    trial = Attempt("none", stub=True)
    error = RayTaskError("train", "told", ValueError("a rate of 0\ncannot be"))
    with kept():
        trial.handle_error(error)
    made = tmp_path / "made"
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(Runs(made)))
    assert error_of(trial) is error
    assert _sentence(error_of(trial)) == "ValueError: a rate of 0"
    assert not made.exists()


def test_no_module_unpickles() -> None:
    unpickles = re.compile(r"pickle\.loads?\(|weights_only=False|torch\.load\((?!.*weights_only)")
    package = Path(artifact.__file__).parent
    found = [path.name for path in package.rglob("*.py") if unpickles.search(path.read_text())]
    assert found == ["packed.py"], "which opens what the search's own driver sent through its Ray"
