"""An artifact comes back as it was saved, wherever it is made."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spinlock import artifact
from spinlock.errors import ArtifactError, SpinlockError

FACTS = {"kind": "noa", "config": {"a": 1}, "weights": {"w": torch.ones(2)}}


def test_metrics_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    metrics = {"a": math.nan, "b": 1.5, "per": {"c": [math.inf, 2.0]}, "d": 3}
    artifact.save(tmp_path / "made", **FACTS, metrics=metrics, provenance={})
    found = artifact.load(tmp_path / "made", "noa")
    assert found.metrics == {"a": None, "b": 1.5, "per": {"c": [None, 2.0]}, "d": 3}


def test_a_config_that_is_not_finite_is_a_mistake(tmp_path: Path) -> None:
    facts = FACTS | {"config": {"lr": math.nan}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.save(tmp_path / "made", **facts, metrics={}, provenance={})
    assert not (tmp_path / "made").exists()


def test_an_artifact_replaces_an_artifact_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for value in (1.0, 2.0):
        artifact.save(tmp_path / "made", **FACTS, metrics={"a": value}, provenance={})
        assert artifact.load(tmp_path / "made", "noa").metrics == {"a": value}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("place", ["notes", "notes/thesis.tex"])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, place: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("precious")
    with pytest.raises(
        ArtifactError, match=r"(thesis\.tex, which|a file stands here).*not replaced"
    ):
        artifact.save(tmp_path / place, **FACTS, metrics={}, provenance={})
    assert (tmp_path / "notes" / "thesis.tex").read_text() == "precious"
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "thesis.tex"]


@pytest.mark.parametrize("place", ["/proc/made", "file/made"])
def test_a_place_that_takes_no_artifact_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpinlockError, match=r"made: cannot be written: .*choose another place"):
        artifact.save(tmp_path / place, **FACTS, metrics={}, provenance={})


def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: .*no such directory.* a trained noa"):
        artifact.load(tmp_path / "nowhere", "noa")


def test_without_git_the_commit_is_not_known(tmp_path: Path) -> None:
    code = "import json; from spinlock.artifact import provenance; print(json.dumps(provenance()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["commit"] is None
