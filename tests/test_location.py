"""Data and tokenizers at URIs of a real S3-compatible server: brought once, or an error."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_store import Store, served
from pyarrow import fs
from ray.cluster_utils import Cluster

from spinlock.data import open_dataset
from spinlock.errors import ArtifactError, ConfigError, SpinlockError
from spinlock.location import Uri, _staged, local, located, pinned
from spinlock.search import prepare
from spinlock.search.cluster import DRIVER, connect
from spinlock.search.noa import NOA
from spinlock.search.nodes import require_shared
from spinlock.search.results import ROUNDING, export
from spinlock.search.space import Resources, Study
from spinlock.search.study import run
from spinlock.search.trainables import TRAINABLES
from spinlock.training.config import training_config
from spinlock.training.tokenizers import read_tokenizer

ROOT = Path(__file__).parents[1]
TELL = "import sys; from spinlock.location import *; print(local(located(sys.argv[1])))"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("store") / "root"
    (root / "bucket").mkdir(parents=True)
    with served(root) as store:
        yield store


@pytest.fixture
def store(running: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server, its credentials in the environment and a node without copies."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPINLOCK_CACHE", str(tmp_path / "cache"))
    _staged.cache_clear()
    yield running
    _staged.cache_clear()


def put(store: Store, name: str, content: bytes) -> str:
    path = store.root / "bucket" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return store.uri(f"bucket/{name}")


def another(uri: str) -> subprocess.Popen[str]:
    """A process of the same node that asks for it."""
    words = [sys.executable, "-c", TELL, uri]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_path_is_a_path(tmp_path: Path) -> None:
    assert located("data/flow.h5") == Path("data/flow.h5") == local(Path("data/flow.h5"))
    assert pinned(Path("a")) == Path.cwd() / "a"


@given(st.text("abc/", min_size=1).filter(lambda path: path.strip("/")), st.booleans())
def test_what_is_written_is_what_is_read(path: str, pin: bool) -> None:
    text = f"s3://bucket/{path.strip('/')}" + (f"#sha256:{'0' * 64}" if pin else "")
    found = located(text)
    assert isinstance(found, Uri)
    assert str(found) == text
    assert located(str(found)) == found == located(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://key:word@bucket/flow.h5", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket", "a whole store"),
        ("s3://bucket/..", "a whole store"),
        ("s3://bucket/flow.h5#latest", "sha256: and 64 digits"),
    ],
)
def test_a_faulty_uri_is_one_sentence_without_its_secrets(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        training_config({"task": "vqvae", "data": {"path": text}}, where="run.yaml")
    assert "run.yaml: data.path: " in str(refused.value)
    assert "word" not in str(refused.value)


def test_a_file_is_brought_once_and_pinned_to_its_bytes(store: Store) -> None:
    content = os.urandom(3 << 20)
    uri = located(put(store, "flow.bin", content))
    before = store.asked("GET OBJECT")
    copy = local(uri)
    assert copy.name == "flow.bin"
    assert copy.read_bytes() == content
    known = pinned(uri)
    assert str(known) == f"{uri}#sha256:{sha256(content).hexdigest()}"
    assert local(known) == copy == Path(another(str(uri)).communicate()[0].strip())
    assert store.asked("GET OBJECT") == before + 1


@pytest.mark.parametrize("key", ["../../evil", "a/../../evil", "a//b", "./a"])
def test_a_key_that_leads_out_of_its_directory_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    class Hostile:
        def from_uri(self, _: str) -> tuple[Any, str]:
            return self, "bucket/d"

        def get_file_info(self, asked: Any) -> Any:
            if asked == "bucket/d":
                return fs.FileInfo(asked, fs.FileType.Directory)
            return [fs.FileInfo(f"bucket/d/{key}", fs.FileType.File, size=1)]

    monkeypatch.setenv("SPINLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fs, "FileSystem", Hostile())
    with pytest.raises(SpinlockError, match="names no file below the directory"):
        local(Uri("s3://bucket/d"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_processes_that_ask_at_once_wait_for_one_copy(store: Store) -> None:
    uri = put(store, "at-once.bin", os.urandom(10 << 20))
    before = store.asked("GET OBJECT")
    asked = [another(uri) for _ in range(3)]
    assert len({process.communicate()[0] for process in asked}) == 1
    assert [process.returncode for process in asked] == [0, 0, 0]
    assert store.asked("GET OBJECT") == before + 1


def test_a_pinned_copy_is_used_without_asking_the_store(store: Store) -> None:
    known = pinned(located(put(store, "kept.bin", b"kept")))
    _staged.cache_clear()
    before = len(store.log.read_text())
    assert local(known).read_bytes() == b"kept"
    assert len(store.log.read_text()) == before


def test_what_has_changed_is_brought_anew_and_refused_to_whoever_has_the_former(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = located(put(store, "changing.bin", b"first"))
    first = pinned(uri)
    put(store, "changing.bin", b"second one")
    _staged.cache_clear()
    assert local(uri).read_bytes() == b"second one"
    assert local(first).read_bytes() == b"first", "still here"
    monkeypatch.setenv("SPINLOCK_CACHE", str(tmp_path / "another node"))
    _staged.cache_clear()
    with pytest.raises(SpinlockError, match=r"changing.bin\S*: what stands there has changed"):
        local(first)


def test_one_that_is_killed_while_it_copies_leaves_nothing_that_counts(
    store: Store, tmp_path: Path
) -> None:
    content = os.urandom(60 << 20)
    uri = put(store, "cut.bin", content)
    asked = another(uri)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.rglob("cut.bin")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    asked.send_signal(signal.SIGKILL)
    asked.communicate()
    assert local(located(uri)).read_bytes() == content
    left = [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".partial")]
    assert left == []


def test_what_cannot_be_had_is_said_and_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put(store, "there.bin", b"there")
    with pytest.raises(SpinlockError, match=r"bucket/none\S*: cannot be copied to .*: nothing"):
        local(located(store.uri("bucket/none.bin")))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SpinlockError, match=r"bucket/there\.bin\S*: cannot be copied to ") as no:
        local(located(there))
    assert "wrong" not in str(no.value)
    with pytest.raises(SpinlockError, match="unknown: cannot be copied to "):
        local(located("ftp://bucket/unknown"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"] * 3
    monkeypatch.setenv("SPINLOCK_CACHE", "/proc/nowhere")
    with pytest.raises(SpinlockError, match="/proc/nowhere: cannot be the directory for copies"):
        local(located(there))


def test_code_is_run_from_no_store(store: Store) -> None:
    uri = located(put(store, "vqvae.py", b"raise SystemExit"))
    with pytest.raises(ArtifactError, match="taken from a path alone"):
        read_tokenizer(uri)


def test_data_and_tokenizer_of_a_store_are_those_of_a_path(
    store: Store, noa_run: dict[str, Any]
) -> None:
    config = training_config(noa_run, where="run")
    data, tokenizer = config.data.path, config.tokenizer
    assert isinstance(data, Path)
    assert isinstance(tokenizer, Path)
    shutil.copy(data, store.root / "bucket" / "flow.h5")
    shutil.copytree(tokenizer, store.root / "bucket" / "tokens")
    remote = noa_run | {
        "data": noa_run["data"] | {"path": store.uri("bucket/flow.h5")},
        "tokenizer": store.uri("bucket/tokens"),
    }
    there = training_config(remote, where="run")
    assert NOA().facts(there) == NOA().facts(config)
    assert there == training_config(there.model_dump(mode="json"), where="again")
    assert open_dataset(there.data.path).info.path.name == "flow.h5"


@pytest.fixture
def two_nodes(store: Store, nodes_on_loopback: None, tmp_path: Path) -> Iterator[str]:
    """Two nodes of one Ray, each with a cache of its own."""
    node = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"resources": {DRIVER: 9}})
    cluster.add_node(num_cpus=1, env_vars={"SPINLOCK_CACHE": str(tmp_path / "its own")})
    yield cluster.address
    cluster.shutdown()


def stored(store: Store, run: dict[str, Any], name: str) -> dict[str, Any]:
    """The run, its data and its tokenizer in the bucket under this name."""
    shutil.copytree(Path(run["tokenizer"]), store.root / "bucket" / name)
    data = put(store, f"{name}.h5", Path(run["data"]["path"]).read_bytes())
    return run | {"data": {"path": data}, "tokenizer": store.uri(f"bucket/{name}")}


def brought(store: Store, name: str) -> list[int]:
    """How often data and weights of this name were asked for."""
    asked = "GET OBJECT Bucket: bucket Object: "
    return [store.asked(f"{asked}{name}.h5"), store.asked(f"{asked}{name}/weights.safetensors")]


@pytest.mark.slow
def test_each_node_of_a_search_has_each_file_brought_once_before_it_begins(
    two_nodes: str, store: Store, noa_run: dict[str, Any], tmp_path: Path
) -> None:
    config = training_config(stored(store, noa_run, "asked"), where="run")
    facts = NOA().facts(config)
    with connect(Resources(execution="in_process"), address=two_nodes):
        require_shared(tmp_path, NOA(), config, facts)
    assert brought(store, "asked") == [2, 2]
    here = {path.name for path in (tmp_path / "cache").rglob("*.h5")}
    assert here == {path.name for path in (tmp_path / "its own").rglob("*.h5")} == {"asked.h5"}


@pytest.mark.soak
@pytest.mark.slow
def test_trials_on_two_nodes_train_on_what_was_pinned_and_the_best_is_exported(
    two_nodes: str, store: Store, noa_run: dict[str, Any], tmp_path: Path
) -> None:
    training = stored(store, noa_run, "trained")
    document = {
        "name": "remote",
        "trials": 4,
        "space": {"optimizer.lr": {"log_uniform": [1e-4, 1e-2]}},
        "resources": {"execution": "in_process", "concurrent": 2},
        "training": {key: value for key, value in training.items() if key != "task"},
    }
    study = Study.model_validate(document)
    recipes = prepare.Recipes(tmp_path / "none", tmp_path / "none", tmp_path / "artifacts")
    ready = prepare.fulfil(study, NOA(), recipes, print).study
    assert "#sha256:" in ready.training["data"]["path"]
    found = run(ready, NOA(), tmp_path / "search", address=two_nodes, dashboard=False)
    assert found.finished
    assert all(trial.history for trial in found.ledger.trials.values())
    assert brought(store, "trained") == [2, 2]
    assert export(tmp_path / "search", tmp_path / "best", TRAINABLES).difference < ROUNDING
