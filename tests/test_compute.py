"""Options of computing change time and memory; what is learnt from stays the same."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spinlock.config import known_paths
from spinlock.noa import EXACT, UAFNO, ComputeConfig, Rollout, UAFNOConfig, rollout
from spinlock.training.config import NOATraining, training_config
from spinlock.training.noa_task import NOATask

SMALL = UAFNOConfig(base_channels=4, encoder_levels=2, modes=4, afno_blocks=1, blocks_per_level=1)
CPU = torch.device("cpu")


@pytest.fixture
def model() -> UAFNO:
    torch.manual_seed(0)
    return UAFNO(SMALL, channels=1, grid=(16, 16), parameters=3)


def rolled(model: UAFNO, *, timesteps: int, window: int, **options: Any) -> Rollout:
    generator = torch.Generator().manual_seed(1)
    initial = torch.randn(2, 1, 16, 16, generator=generator)
    parameters = torch.randn(2, 3, generator=generator)
    return rollout(
        model,
        initial,
        parameters,
        timesteps=timesteps,
        window=window,
        tapped=(0, window - 1),
        compute=ComputeConfig(**options),
    )


def gradients(model: UAFNO, found: Rollout) -> dict[str, torch.Tensor]:
    model.zero_grad()
    assert found.taps is not None
    (found.supervised.square().mean() + found.taps.square().mean()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def task(data: Path, tokenizer: Path, **options: Any) -> NOATask:
    torch.manual_seed(0)
    document = {
        "task": "noa",
        "data": {"path": str(data)},
        "tokenizer": str(tokenizer),
        "model": SMALL.model_dump(),
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "compute": options,
    }
    config = training_config(document, where="test")
    assert isinstance(config, NOATraining)
    return NOATask(config, CPU)


def test_every_option_is_off_by_default_and_can_be_searched() -> None:
    assert ComputeConfig(bf16="never", checkpoint_steps=False, use_torch_compile=False) == EXACT
    assert {f"compute.{name}" for name in ComputeConfig.model_fields} <= {*known_paths(NOATraining)}


def test_checkpointed_steps_give_the_same_frames_taps_and_gradients(model: UAFNO) -> None:
    kept = rolled(model, timesteps=6, window=4)
    again = rolled(model, timesteps=6, window=4, checkpoint_steps=True)
    assert torch.equal(kept.frames, again.frames)
    assert kept.taps is not None
    assert again.taps is not None
    assert torch.equal(kept.taps, again.taps)
    expected, found = gradients(model, kept), gradients(model, again)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name


def test_checkpointed_steps_keep_little_for_the_backward(model: UAFNO) -> None:
    kept = {False: 0, True: 0}

    for checkpointed in kept:

        def pack(tensor: torch.Tensor, checkpointed: bool = checkpointed) -> torch.Tensor:
            kept[checkpointed] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            rolled(model, timesteps=4, window=4, checkpoint_steps=checkpointed)
    assert kept[True] < kept[False] / 10


def test_a_warm_up_in_bf16_leaves_the_window_in_single_precision(model: UAFNO) -> None:
    exact = rolled(model, timesteps=4, window=4)
    window_only = rolled(model, timesteps=4, window=4, bf16="warm_up")
    assert torch.equal(exact.frames, window_only.frames)
    exact = rolled(model, timesteps=6, window=2)
    early = rolled(model, timesteps=6, window=2, bf16="warm_up")
    assert early.frames.dtype == torch.float32
    assert not torch.equal(exact.frames, early.frames)
    torch.testing.assert_close(early.frames, exact.frames, atol=2e-2, rtol=0)


def test_gradients_of_bf16_convolutions_are_near_and_in_single_precision(model: UAFNO) -> None:
    expected = gradients(model, rolled(model, timesteps=4, window=4))
    found = gradients(model, rolled(model, timesteps=4, window=4, bf16="throughout"))
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    off = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    whole = sum(float(gradient.square().sum()) for gradient in expected.values())
    assert 0 < (off / whole) ** 0.5 < 0.05


def test_validation_is_in_single_precision_whatever_training_is(
    tiny_data: Path, tiny_tokenizer: Path
) -> None:
    exact = task(tiny_data, tiny_tokenizer)
    reduced = task(tiny_data, tiny_tokenizer, bf16="throughout")
    for found in (exact, reduced):
        found.modules.eval()
    items = exact.split.validation
    with torch.no_grad():
        expected, scores = exact.scores(items), reduced.scores(items)
    assert {k: float(v) for k, v in scores.items()} == {k: float(v) for k, v in expected.items()}
    for found in (exact, reduced):
        found.modules.train()
    assert not torch.equal(exact.terms(items)["traj"], reduced.terms(items)["traj"])


COMPILED = """
import functools, sys
import torch
# Traced and differentiated as ever; generating and building C++ takes minutes and is torch's own.
torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
from spinlock.training.config import training_config
from spinlock.training.noa_task import NOATask

torch.set_num_threads(1)
tasks = []
for compiled in (False, True):
    torch.manual_seed(0)
    document = {
        "data": {"path": sys.argv[1]},
        "tokenizer": sys.argv[2],
        "model": {
            **{"base_channels": 4, "encoder_levels": 1, "modes": 4},
            **{"afno_blocks": 1, "blocks_per_level": 1},
        },
        "rollout": {"timesteps": 8},
        "compute": {"use_torch_compile": compiled},
    }
    tasks.append(NOATask(training_config(document, where="test"), torch.device("cpu")))
plain, compiled = tasks
assert [*plain.modules.state_dict()] == [*compiled.modules.state_dict()]
items = plain.split.train[:2]
expected, found = plain.terms(items), compiled.terms(items)
for name in expected:
    torch.testing.assert_close(found[name], expected[name], msg=name)
expected["traj"].backward()
found["traj"].backward()
pairs = zip(plain.modules.named_parameters(), compiled.modules.parameters(), strict=True)
for (name, one), other in pairs:
    if one.grad is not None:
        torch.testing.assert_close(other.grad, one.grad, atol=1e-6, rtol=1e-3, msg=name)
"""


@pytest.mark.slow
def test_a_compiled_step_has_the_same_losses_gradients_and_names(
    tiny_data: Path, tiny_tokenizer: Path
) -> None:
    """In a process of its own: what checks shapes in tests cannot be compiled."""
    words = [sys.executable, "-W", "ignore", "-c", COMPILED, str(tiny_data), str(tiny_tokenizer)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
