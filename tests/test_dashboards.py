"""What a browser and a scraper find of a search, while a Ray with a token runs it."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import requests
from browser import needs_chromium, read_page
from ruamel.yaml import YAML
from searching import without_ray
from test_search_launch import ROOT, SPACE
from test_submit import TOKEN, dashboard, environment, ray_files, submit  # noqa: F401 - fixtures

from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.space import Study
from spinlock.search.storage import JOURNAL

DASHBOARDS = ROOT / "clusters" / "dashboards"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPTUNA = Path(sys.executable).with_name("optuna-dashboard")


def until(holds: Callable[[], Any], patience: float = 120) -> Any:
    deadline = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


@contextmanager
def served(*command: str) -> Iterator[str]:
    """The address of a program that serves pages, on a free port."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], **quiet
    ) as server:

        def answers() -> bool:
            try:
                return requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok
            except requests.ConnectionError:
                return False

        try:
            until(answers)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.slow
@needs_chromium
def test_rays_pages_and_gauges_name_the_trials_of_a_search(
    tmp_path: Path,
    tiny_data: Path,
    tiny_tokenizer: Path,
    dashboard: str,  # noqa: F811
    ray_files: Path,  # noqa: F811
) -> None:
    space, place = tmp_path / "tiny.yaml", tmp_path / "shared" / "looked-at"
    space.write_text(SPACE.replace("epochs: 2", "epochs: 2000"))
    arguments = ("--space", space, "--address", dashboard, "--experiment", place)
    data = ("--data", tiny_data, "--vqvae", tiny_tokenizer)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    sent = submit(tmp_path, *arguments, *data, **token)
    assert sent.returncode == 0, sent.stderr
    until(lambda: (place / EVENTS).is_file() and read_ledger(place).epochs)

    read_page(f"{dashboard}/#/actors", "looked-at from trial 0 on", headers=BEARER)
    arrow = "tbody tr td:first-child svg"
    processes = f"{dashboard}/#/cluster"
    read_page(processes, "ray::looked-at trial 0", click=arrow, headers=BEARER)

    config = YAML(typ="safe").load(DASHBOARDS / "prometheus.yml")
    (scraped,) = config["scrape_configs"]
    (file,) = scraped["file_sd_configs"][0]["files"]
    (targets,) = json.loads((ray_files / Path(file).relative_to("/tmp")).read_text())

    def told() -> str:
        pages = [f"http://{target}/metrics" for target in targets["targets"]]
        text = "".join(requests.get(page, timeout=10).text for page in pages)
        return text if "ray_spinlock_epoch{" in text else ""

    series = until(told)
    tags = [{*line.split(",")} for line in re.findall(r"ray_spinlock_metric\{(.*)\}", series)]
    assert any({'study="tiny"', 'trial="0"', 'metric="val/traj"'} <= each for each in tags)
    log = (place / "trials" / "00000").glob("events.out.tfevents.*")
    assert [*log], "TensorBoard's curves"


def test_the_board_draws_what_the_gauges_tell_and_nothing_else() -> None:
    board = json.loads((DASHBOARDS / "grafana.json").read_text())
    source = (ROOT / "spinlock" / "search" / "gauges.py").read_text()
    told = {*re.findall(r"^    (ray_spinlock_\w+)\{", source, re.MULTILINE)}
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    assert {name for text in asked for name in re.findall(r"ray_\w+", text)} == told
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(0 <= p["gridPos"]["x"] <= 24 - p["gridPos"]["w"] for p in board["panels"])


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A search that has stopped some of its trials."""
    study = Study(
        name="small",
        trials=6,
        training={"epochs": 6},
        space={"optimizer.lr": {"log_uniform": [0.001, 0.1]}},
        searcher={"kind": "random"},
        scheduler={"kind": "asha", "grace_epochs": 1},
    )
    without_ray(study, tmp_path / "x")
    return tmp_path / "x"


@needs_chromium
def test_optunas_dashboard_says_why_a_trial_was_stopped(ended: Path) -> None:
    stopped = next(
        trial
        for trial in read_ledger(ended).trials.values()
        if trial.verdict is not None and trial.verdict.rule == "asha"
    )
    assert stopped.verdict is not None
    with served(str(OPTUNA), str(ended / JOURNAL)) as address:
        page = f"{address}/dashboard/studies/0/trials?numbers={stopped.number}"
        read_page(page, f"Trial {stopped.number}", stopped.verdict.sentence)


@needs_chromium
def test_tensorboard_names_the_trials(tmp_path: Path) -> None:
    from spinlock.search.checkpoints import Report, trial_directory
    from spinlock.search.curves import Curves

    for number in (0, 3):
        curves = Curves(trial_directory(tmp_path, number))
        for epoch in (1, 2):
            curves.report(Report(epoch, {"val/traj": 1.0 / epoch, "val/commit": float("nan")}))
        curves.close()
    command = (sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "trials"))
    with served(*command) as address:
        told = read_page(address, "00000", "00003", "traj")
    assert "commit" not in told, "what is not finite has no curve"
