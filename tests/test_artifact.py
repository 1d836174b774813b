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
