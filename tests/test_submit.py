"""A launch script's command as a Ray job: what is refused here, and one that a cluster runs."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests
import typer
from test_search_launch import ROOT, SPACE

from spinlock.errors import SearchError, SpinlockError
from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.submit import _without

TOKEN = "t" * 64
# A Ray of the test's own, as `ray start` makes it, until stdin closes.
HEAD = """\
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "include_dashboard": True}
node |= {"dashboard_port": 0, "dashboard_agent_listen_port": 0}
cluster = Cluster(initialize_head=True, head_node_args=node)
print(cluster.head_node.address_info["webui_url"], flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Without what a user of Ray may have set, and with the test's own loopback and token."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return clean | ours | variables


def submit(home: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "tune_noa.py"), "--submit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment(home, **variables),
    )


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE.replace("trials: 3", "trials: 1"))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """launch/tune_noa.py's command line, in this process, which knows no cluster."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # is also undone where the command sets it
    app = typer.Typer()
    app.command()(runpy.run_path(str(ROOT / "launch" / "tune_noa.py"))["main"])
    return typer.main.get_command(app)


@pytest.fixture
def ray_files() -> Iterator[Path]:
    """Where a Ray of the test's own keeps its files: in a directory that it shares with another,
    a job joins whichever of the two was started last. Its sockets allow no long path."""
    with TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def dashboard(tmp_path: Path, ray_files: Path) -> Iterator[str]:
    """The URL of a Ray that asks for TOKEN."""
    asks = environment(
        tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, RAY_TMPDIR=str(ray_files)
    )
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=asks,
    ) as head:
        assert head.stdout is not None
        yield f"http://{head.stdout.readline().strip()}"
        head.communicate("")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((), "--submit needs --experiment: a path on the cluster"),
        (("--experiment", "x"), "x: with --submit a path is one on the cluster"),
        (
            ("--experiment", "/shared/x", "--data", "flow.h5"),
            "flow.h5: with --submit a path is one on the cluster",
        ),
        (
            ("--experiment", "/shared/x", "--set", "training.data.path=flow.h5"),
            "flow.h5: with --submit a path is one on the cluster",
        ),
        (
            (
                *("--experiment", "/shared/x", "--set", "searcher.kind=tpe"),
                *("--warm-start", "experiments/first"),
            ),
            "experiments/first: with --submit a path is one on the cluster",
        ),
        (
            ("--experiment", "/shared/x", "--set", "storage=sqlite:///optuna.db"),
            "optuna.db: with --submit a path is one on the cluster",
        ),
        (("--experiment", "/shared/x"), "a cluster is named by --address, the URL of its dash"),
        (
            ("--experiment", "/shared/x", "--address", "127.0.0.1:6379"),
            "127.0.0.1:6379: the address of a cluster's jobs is the URL of its dashboard",
        ),
        (
            ("--experiment", "/shared/x", "--address", "http://127.0.0.1:9"),
            "http://127.0.0.1:9: no cluster answers",
        ),
        (("--experiment", "/shared/x", "--dry-run"), "--dry-run is answered here"),
        (("--set", "training.epoch=3"), "--set training.epoch=3: there is no such key"),
    ],
)
def test_what_cannot_be_sent_is_said_in_a_sentence(
    space: Path, command: Any, arguments: tuple[str, ...], answer: str
) -> None:
    with pytest.raises(SpinlockError) as refused:
        command.main(["--submit", "--space", str(space), *arguments], standalone_mode=False)
    assert str(refused.value).startswith(answer)
    assert len(str(refused.value).splitlines()) == 1


def test_an_address_may_come_as_it_does_to_rays_own_command(
    space: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = ["--submit", "--space", str(space), "--experiment", "/shared/x"]
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        with pytest.raises(SearchError, match=r"http://127.0.0.1:9: no cluster answers"):
            command.main(sent, standalone_mode=False)
    with pytest.raises(SearchError, match=r"http://127.0.0.1:8: no cluster answers"):
        command.main([*sent, "--address", "http://127.0.0.1:8"], standalone_mode=False)


def test_the_options_of_a_command_line_are_found_in_both_their_forms() -> None:
    given = ["--set", "a=1", "--space", "x.yaml", "--address=http://h:1", "--set", "b=2"]
    assert [*_without(_without(given, "--space"), "--address")] == ["--set", "a=1", "--set", "b=2"]


@pytest.mark.slow
def test_a_cluster_runs_the_command_for_who_has_its_token(
    space: Path, tmp_path: Path, tiny_data: Path, tiny_tokenizer: Path, dashboard: str
) -> None:
    place = tmp_path / "shared" / "x"
    command: list[Any] = ["--space", space, "--address", dashboard, "--experiment", place]
    command += ["--data", tiny_data, "--vqvae", tiny_tokenizer]
    command += ["--set", "resources.execution=in_process"]
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 64}):
        refused = submit(tmp_path, *command, **token)
        assert refused.returncode == 2
        assert f"{dashboard}: the cluster refuses the token of this machine" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)  # found without RAY_AUTH_MODE
    sent = submit(tmp_path, *command)
    assert sent.returncode == 0, sent.stderr
    assert TOKEN not in sent.stdout + sent.stderr
    job = sent.stdout.split()[1].rstrip(":")
    assert f"spinlock logs -f   {place} --address {dashboard}" in sent.stdout

    about: dict[str, Any] = {}
    deadline = time.monotonic() + 120
    while about.get("status") not in ("SUCCEEDED", "FAILED") and time.monotonic() < deadline:
        time.sleep(0.5)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        about = requests.get(f"{dashboard}/api/jobs/{job}", headers=bearer, timeout=10).json()
    assert about["status"] == "SUCCEEDED", about
    about["metadata"].pop("command")  # which `spinlock resume` gives once more
    assert about["metadata"] == {"study": "tiny", "experiment": str(place)}
    assert read_ledger(place).sessions[-1].closed == "finished"
    assert (place / EVENTS).is_file()
    assert (place.parent / "artifacts").is_dir(), "beside the experiment, not in the job's copy"
