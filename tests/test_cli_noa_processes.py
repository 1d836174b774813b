"""`spinlock train-noa` in processes of its own: two that share a batch, and one that is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from noa_runs import SMALL, started

from spinlock.training import checkpoint

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_with_the_joined_batch(
    tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """After one update AdamW's first moment is a tenth of the clipped gradient, entry by entry."""
    given = ("--dataset", tiny_data, "--vqvae-path", tiny_tokenizer, "--enable-latent-loss")
    one_update = (*given, *SMALL, "--epochs", "1", "--batch-size", "9", "--save-every", "1")
    alone, together = tmp_path / "alone", tmp_path / "together"
    processes = [
        started(*one_update, "--checkpoint-dir", alone),
        started(*one_update, "--checkpoint-dir", together, launcher=TORCHRUN),
    ]
    for code, _, err in map(ended, processes):
        assert code == 0, err
        # Of two processes one tells and writes.
        assert err.count("Epoch 1/1\n") == 1
    assert {p.name for p in alone.iterdir()} == {p.name for p in together.iterdir()}
    one, two = (checkpoint.read(path / "step_1.pt") for path in (alone, together))
    assert two["run"]["norm_sum"] == pytest.approx(one["run"]["norm_sum"], rel=1e-5)
    moments = [saved["optimizer"]["state"] for saved in (one, two)]
    largest = max(state["exp_avg"].abs().max() for state in moments[0].values())
    for index, state in moments[0].items():
        difference = (moments[1][index]["exp_avg"] - state["exp_avg"]).abs().max()
        assert difference < 1e-5 * largest
    weights = [checkpoint.read(path / "epoch_1.pt")["run"]["history"] for path in (alone, together)]
    for name, value in weights[0][0]["metrics"].items():
        if name.startswith(("train/", "val/")):
            assert weights[1][0]["metrics"][name] == pytest.approx(value, rel=1e-3), name


LEFT = """
from pathlib import Path
from spinlock.training.parallel import launched

def threads_of_gloo():
    return sum("gloo" in name.read_text() for name in Path("/proc/self/task").glob("*/comm"))

with launched():
    import torch._dynamo  # as the first step of an optimizer does
    assert threads_of_gloo() > 0
print(threads_of_gloo())
"""


def test_a_process_that_has_left_the_others_keeps_no_thread_that_could_abort_its_end() -> None:
    """Threads of gloo that outlived the group ended one process in twelve with SIGABRT."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **alone, "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "alone"}
    command = [sys.executable, "-c", LEFT]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.stdout == "0\n", said.stderr


@pytest.mark.slow
def test_a_run_that_is_stopped_says_how_to_go_on_and_then_equals_one_that_was_not(
    tiny_data: Path, tmp_path: Path
) -> None:
    given = ("--dataset", tiny_data, *SMALL, "--epochs", "20", "--save-every", "1")
    out = tmp_path / "stopped"
    process = started(*given, "--checkpoint-dir", out)
    while process.poll() is None and not [*out.glob("step_*.pt")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    command = err.splitlines()[-1]
    assert command.startswith(f"Interrupted. Go on with: spinlock train-noa --resume {out}/")
    assert ended(started("--resume", command.rpartition(" ")[2], "--save-every", "1"))[0] == 0
    straight = tmp_path / "straight"
    assert ended(started(*given, "--checkpoint-dir", straight))[0] == 0
    one, two = (checkpoint.read(path / "epoch_20.pt") for path in (out, straight))
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
