"""A probe tells what a run will take, and leaves no trace in it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spinlock.training import probe as probe_module
from spinlock.training.config import NOATraining, VQVAETraining, training_config
from spinlock.training.counting import noa_footprint
from spinlock.training.trainer import Trainer

CLOCK = {"seconds", "peak_memory_bytes"}


def noa(run: dict[str, Any], **changes: Any) -> NOATraining:
    config = training_config({**run, **changes}, where="test")
    assert isinstance(config, NOATraining)
    return config


def curves(trainer: Trainer) -> list[dict[str, str]]:
    """Every metric to the bit, but for clock and memory."""
    return [
        {name: repr(value) for name, value in report.metrics.items() if name not in CLOCK}
        for report in trainer.epochs()
    ]


@pytest.fixture
def vqvae_run(tiny_data: Path) -> dict[str, Any]:
    return {
        "task": "vqvae",
        "data": {"path": str(tiny_data)},
        "frames": 9,
        "epochs": 2,
        "batch_size": 4,
        "model": {"hidden_dim": 16, "embedding_dim": 16, "dead_code_reset_interval": 2},
    }


@pytest.mark.parametrize("task", ["noa_run", "vqvae_run"])
def test_a_probed_run_has_the_numbers_of_one_that_was_not(
    task: str, request: pytest.FixtureRequest
) -> None:
    config = training_config(request.getfixturevalue(task), where="test")
    plain = Trainer(config)
    expected = curves(plain)
    probed = Trainer(config)
    found = probed.probe((1, 2, 4))
    assert [probe.micro_batch for probe in found] == [1, 2, 4]
    assert all(probe.peak > 2**20 and 0 < probe.forward < probe.seconds for probe in found)
    assert curves(probed) == expected
    for name, value in plain.task.modules.state_dict().items():
        assert torch.equal(value, probed.task.modules.state_dict()[name]), name


def test_a_probe_ends_before_more_samples_than_there_are_and_where_memory_ends(
    noa_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(noa(noa_run))
    assert [probe.micro_batch for probe in trainer.probe((2, 64))] == [2]
    terms = trainer.task.terms

    def cramped(items: list[int]) -> dict[str, torch.Tensor]:
        if len(items) > 2:
            raise torch.OutOfMemoryError
        return terms(items)

    monkeypatch.setattr(trainer.task, "terms", cramped)
    assert [probe.micro_batch for probe in trainer.probe((1, 2, 4))] == [1, 2]


def test_a_probe_ends_before_it_takes_more_than_its_limit(
    noa_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, sizes = Trainer(noa(noa_run)), list[int]()
    terms = trainer.task.terms

    def counted(items: list[int]) -> dict[str, torch.Tensor]:
        sizes.append(len(items))
        return terms(items)

    monkeypatch.setattr(trainer.task, "terms", counted)
    monkeypatch.setattr(probe_module, "peak_bytes", lambda _: 1000 + 100 * sizes[-1])
    for limit, expected in ((1500.0, [1, 2, 4]), (1399.0, [1, 2]), (1050.0, [1])):
        assert [probe.micro_batch for probe in trainer.probe((1, 2, 4), limit)] == expected
    assert max(sizes) == 4


def test_a_run_that_has_begun_is_not_probed(noa_run: dict[str, Any]) -> None:
    trainer = Trainer(noa(noa_run))
    next(trainer.epochs())
    with pytest.raises(ValueError, match="has begun"):
        trainer.probe((1,))


def test_losses_and_gradients_of_a_batch_are_the_same_in_micro_batches_of_any_size(
    noa_run: dict[str, Any],
) -> None:
    found = []
    for micro_batch in (1, 2, 3, 5, 8):
        trainer = Trainer(noa(noa_run))
        assert trainer.limit_micro_batch(micro_batch) == micro_batch
        trainer._accumulate(trainer.task.split.train[:8])
        losses = trainer._accumulate(trainer.task.split.train[:8])
        assert isinstance(losses, dict)
        gradients = {n: p.grad / 2 for n, p in trainer.task.modules.named_parameters()}
        found.append((losses, gradients))
    whole = found[-1]
    for losses, gradients in found[:-1]:
        assert losses == pytest.approx(whole[0], rel=1e-5)
        for name, gradient in gradients.items():
            scale = whole[1][name].abs().max()
            torch.testing.assert_close(gradient, whole[1][name], rtol=1e-3, atol=1e-4 * scale)


def test_the_footprint_counts_the_weights_and_what_the_backward_really_keeps(
    noa_run: dict[str, Any],
) -> None:
    config = noa(noa_run)
    counted, trainer = noa_footprint(config), Trainer(config)
    uafno = trainer.task.modules["uafno"]
    assert counted.once["weights"] == sum(4 * p.numel() for p in uafno.parameters())
    weights = {p.untyped_storage().data_ptr() for p in trainer.task.modules.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = trainer.task.windows.batch(trainer.task.split.train[:2], torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.task.predict(batch, ())
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    # The layout of the real device costs a copy more here and there.
    assert 2 * counted.per_sample["window"] == pytest.approx(real, rel=0.15)


def test_checkpointed_steps_keep_their_states_alone(noa_run: dict[str, Any]) -> None:
    kept = noa_footprint(noa(noa_run)).per_sample
    dropped = noa_footprint(noa(noa_run, compute={"checkpoint_steps": True})).per_sample
    assert dropped["step"] == kept["step"]
    assert dropped["window"] < kept["window"] / 20
    half = noa_footprint(noa(noa_run, rollout={"timesteps": 8, "bptt_window": 4})).per_sample
    assert half["window"] == kept["window"] / 2


def test_both_tasks_have_a_footprint(vqvae_run: dict[str, Any]) -> None:
    from spinlock.search.trainables import TRAINABLES

    config = training_config(vqvae_run, where="test")
    assert isinstance(config, VQVAETraining)
    found = TRAINABLES["vqvae"].footprint(config)
    assert found is not None
    assert found.samples == 4
