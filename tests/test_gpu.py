"""On a CUDA device: the numbers of the CPU, resume, and memory that runs out for real.

    SPINLOCK_TEST_GPU=1 pytest tests/test_gpu.py

The device must be free: what others hold counts as memory that ran out.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from spinlock.features import FeatureConfig, extract
from spinlock.training.config import training_config
from spinlock.training.evaluate import evaluate
from spinlock.training.trainer import Trainer

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="torch sees no CUDA device, or SPINLOCK_TEST_GPU is not set",
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MEASURED = ("seconds", "peak_memory_bytes")


@pytest.fixture
def ieee() -> Any:
    """Convolutions in single precision: torch's default on a GPU rounds them to TF32."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def trained(document: dict[str, Any], device: torch.device) -> tuple[Trainer, list[dict[str, Any]]]:
    trainer = Trainer(training_config(document, where="test"), device=device)
    return trainer, [numbers(report.metrics) for report in trainer.epochs()]


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in MEASURED}


def test_features_and_their_gradients_are_those_of_the_cpu() -> None:
    walks = torch.randn(4, 9, 2, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(1)
    found = {}
    for device in (CPU, CUDA):
        given = walks.to(device).requires_grad_()
        values = extract(given, FeatureConfig())
        (slope,) = torch.autograd.grad(values.square().mean(), given)
        found[device.type] = values.detach().cpu(), slope.cpu()
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.isfinite(there).all()
        assert float((here - there).norm() / here.norm()) < 1e-4


@pytest.mark.usefixtures("ieee")
def test_training_on_the_gpu_gives_the_losses_of_the_cpu_to_rounding(
    noa_run: dict[str, Any],
) -> None:
    (_, here), (_, there) = trained(noa_run, CPU), trained(noa_run, CUDA)
    for one, other in zip(here, there, strict=True):
        for name in ("train/total", "val/traj", "val/commit", "val/latent", "gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=2e-2), name


@pytest.mark.usefixtures("ieee")
def test_a_run_resumed_on_the_gpu_goes_on_as_if_it_had_not_stopped(
    noa_run: dict[str, Any], tmp_path: Path
) -> None:
    straight, reports = trained(noa_run, CUDA)
    first = Trainer(straight.config, device=CUDA)
    next(first.epochs())
    first.save(tmp_path)
    second = Trainer(straight.config, device=CUDA)
    second.restore(tmp_path)
    (last,) = [numbers(report.metrics) for report in second.epochs()]
    assert last == pytest.approx(reports[-1], rel=1e-4)


def test_an_exported_model_reproduces_its_metrics_from_disk(
    noa_run: dict[str, Any], tmp_path: Path
) -> None:
    trainer, reports = trained(noa_run, CUDA)
    trainer.task.export(tmp_path / "model", reports[-1], {})
    for name, value in evaluate(tmp_path / "model", "noa", device=CUDA).items():
        assert value == pytest.approx(reports[-1][name], rel=1e-4), name


@pytest.mark.usefixtures("ieee")
def test_a_batch_that_the_gpu_cannot_hold_is_halved_until_it_can_and_gives_the_same_update(
    noa_run: dict[str, Any],
) -> None:
    large = {**noa_run, "epochs": 1, "model": {**noa_run["model"], "base_channels": 96}}
    roomy, (plenty,) = trained(large, CUDA)
    needed = torch.cuda.max_memory_allocated()
    del roomy
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6 * needed / total)
    try:
        _, (tight,) = trained(large, CUDA)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert plenty["micro_batch"] == 8
    assert tight["micro_batch"] < 8
    for name in ("train/total", "val/traj", "val/commit", "gradient_norm"):
        assert tight[name] == pytest.approx(plenty[name], rel=1e-3), name


def test_a_sample_that_the_gpu_cannot_hold_ends_the_run_with_a_reason(
    noa_run: dict[str, Any],
) -> None:
    large = {**noa_run, "model": {**noa_run["model"], "base_channels": 128}}
    trainer = Trainer(training_config(large, where="test"), device=CUDA)
    room = torch.cuda.memory_reserved() + 24 * 2**20
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        (report,) = list(trainer.epochs())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert report.stop is not None
    assert report.stop.kind == "memory"
    assert "a single sample does not fit into memory: " in report.stop.sentence
