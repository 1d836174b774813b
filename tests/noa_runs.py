"""Runs of `spinlock train-noa` on tiny data, in this process or in their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spinlock.cli import commands, run

SMALL = (
    *("--timesteps", "8", "--bptt-window", "4", "--epochs", "2", "--batch-size", "4"),
    *("--base-channels", "4", "--encoder-levels", "1", "--modes", "4", "--afno-blocks", "1"),
    *("--warmup-steps", "2", "--set", "model.blocks_per_level=1"),
    *("--set", "data.validation_fraction=0.25"),  # 9 of 12: three batches an epoch
)


def train(*arguments: str | Path) -> str:
    """What a run says that ends well."""
    words = ["train-noa", *map(str, arguments)]
    done = CliRunner().invoke(commands(), words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What is said to a user's mistake."""
    words = ["train-noa", *map(str, arguments)]
    with pytest.raises(SystemExit) as ended:
        run(lambda: commands()(words, standalone_mode=False))
    assert ended.value.code == 2
    return capsys.readouterr().err


def started(*arguments: str | Path, launcher: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """A run in a process of its own, or in those that the launcher's module starts."""
    words = [sys.executable, *launcher, "-m", "spinlock.cli", "train-noa", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=mind_interrupts,
    )


def mind_interrupts() -> None:
    """In a new process: a shell's background job ignores SIGINT, and what it starts does, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
