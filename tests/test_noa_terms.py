"""Every term of the NOA's loss: what it measures, and whom its gradient reaches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spinlock.config import replace
from spinlock.data import open_dataset
from spinlock.noa import UAFNO, rollout
from spinlock.training.config import NOALoss, NOATraining, training_config
from spinlock.training.losses import OF_TRUTH, STATES, TERMS, Alignment, Prediction, Truth
from spinlock.training.noa_task import NOATask
from spinlock.training.parallel import World
from spinlock.training.trainer import Trainer
from spinlock.training.truth import Truths, draw_tokens
from spinlock.vqvae import Tokenizer

ALL = {f"lambda_{term}": 0.3 for term in TERMS}
CPU = torch.device("cpu")


@pytest.fixture
def document(tiny_data: Path, tiny_tokenizer: Path) -> dict[str, Any]:
    return {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "tokenizer": str(tiny_tokenizer),
        "model": {
            "base_channels": 4,
            "encoder_levels": 1,
            "modes": 4,
            "afno_blocks": 1,
            "blocks_per_level": 1,
        },
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "loss": ALL,
        "batch_size": 4,
        "epochs": 2,
        "seed": 1,
    }


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer)


def trainer(document: dict[str, Any], **changes: Any) -> Trainer:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return Trainer(training_config(replace(document, dotted), where="test"))


def only(term: str) -> dict[str, float]:
    """A loss of one term; those that are always there measure."""
    return {"lambda_traj": 0.0, "lambda_commit": 0.0, "lambda_latent": 0.0, f"lambda_{term}": 1.0}


def numbers(run: Trainer) -> list[dict[str, float]]:
    noise = ("seconds", "peak_memory_bytes", "micro_batch")
    return [{k: v for k, v in each.metrics.items() if k not in noise} for each in run.epochs()]


def task_of(run: Trainer) -> NOATask:
    assert isinstance(run.task, NOATask)
    return run.task


def test_every_term_has_its_weight_and_every_weight_its_term() -> None:
    assert list(NOALoss(**ALL).weights) == list(TERMS)
    assert list(NOALoss().weights) == ["traj", "commit", "latent"]


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_finite_and_its_gradient_reaches_the_noa_and_never_the_tokenizer(
    document: dict[str, Any], term: str
) -> None:
    run = trainer(replace(document, {"loss": only(term)}))
    task = task_of(run)
    value = task.terms(task.split.train[:3])[term]
    assert value.isfinite()
    assert value > 0
    value.backward()
    reached = [p.grad.abs().max() for p in task.modules["uafno"].parameters() if p.grad is not None]
    assert max(reached) > 0
    assert all(grad.isfinite() for grad in reached)
    assert task.tokenizer is not None
    assert all(p.grad is None for p in task.tokenizer.parameters())


@pytest.mark.parametrize("term", TERMS)
def test_training_on_a_term_alone_lowers_it(document: dict[str, Any], term: str) -> None:
    run = trainer(replace(document, {"loss": only(term)}), epochs=6, optimizer__lr=3e-3)
    task, items = task_of(run), task_of(run).split.train
    with torch.no_grad():
        before = float(task.scores(items)[term])
    for _ in run.epochs():
        pass
    with torch.no_grad():
        assert float(task.scores(items)[term]) < before


def test_a_weight_of_zero_measures_and_no_weight_leaves_out(document: dict[str, Any]) -> None:
    loss = {**only("traj"), "lambda_tokens": 0.0}
    (report,) = numbers(trainer(replace(document, {"loss": loss}), epochs=1))
    assert {"train/tokens", "val/tokens"} <= report.keys()
    assert report["train/total"] == pytest.approx(report["train/traj"], rel=1e-6)
    assert "val/recon" not in report


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_give_all_terms_of_the_whole_batch(
    document: dict[str, Any], micro: int
) -> None:
    (whole,) = numbers(trainer(document, epochs=1))
    (parts,) = numbers(trainer(document, epochs=1, micro_batch=micro))
    assert whole.keys() >= {f"{part}/{term}" for part in ("train", "val") for term in TERMS}
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("step", [2, 4])
def test_all_terms_go_on_exactly_from_the_middle_of_an_epoch(
    document: dict[str, Any], tmp_path: Path, step: int
) -> None:
    straight = trainer(document)
    reports = numbers(straight)
    first = trainer(document)

    def save(run: Trainer) -> None:
        if run.state.global_step == step:
            run.save(tmp_path)

    first.on_step = save
    numbers(first)
    second = trainer(document)
    second.restore(tmp_path)
    assert numbers(second) == reports[step // 3 :]
    again = second.task.modules.state_dict()
    for name, value in straight.task.modules.state_dict().items():
        assert torch.equal(value, again[name]), name


def test_validation_draws_the_same_tokens_whatever_the_epoch(document: dict[str, Any]) -> None:
    run = trainer(document)
    scores = []
    for epoch in (0, 5):
        run.task.begin_epoch(epoch)
        scores.append(run.task.validate(World(), 2))
    assert scores[0] == scores[1]
    losses = []
    for epoch in (0, 5):
        run.task.begin_epoch(epoch)
        losses.append(float(run.task.terms(run.task.split.train)["augment"].detach()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("window", [3, 8])
def test_the_first_step_has_a_gradient_of_its_own_however_short_the_window(
    document: dict[str, Any], window: int
) -> None:
    uafno = task_of(trainer(document, rollout__bptt_window=window)).modules["uafno"]
    assert isinstance(uafno, UAFNO)
    initial, parameters = torch.randn(2, 1, 16, 16), torch.zeros(2, uafno.parameters_given)
    rolled = rollout(uafno, initial, parameters, timesteps=8, window=window, first=True)
    assert rolled.first is not None
    assert rolled.first.requires_grad
    assert torch.equal(rolled.first, rolled.frames[:, 1])
    plain = rollout(uafno, initial, parameters, timesteps=8, window=window)
    torch.testing.assert_close(rolled.frames, plain.frames, rtol=1e-4, atol=1e-5)
    assert plain.first is None
    (found,) = torch.autograd.grad(rolled.first.sum(), uafno.head.weight, retain_graph=True)
    step = uafno(initial, uafno.condition(parameters)).state
    (expected,) = torch.autograd.grad(step.sum(), uafno.head.weight)
    torch.testing.assert_close(found, expected)


# What they measure.


@pytest.fixture
def trajectories(tiny_data: Path) -> Tensor:
    return open_dataset(tiny_data).trajectories(range(12), slice(0, 9))


def aligned(tokenizer: Tokenizer, rolled: Tensor, true: Tensor, seed: int = 0) -> Prediction:
    truth = tokenizer(true)
    return Prediction(
        rolled,
        true,
        Alignment(
            tokenizer,
            tokenizer(rolled),
            projected=truth.latents,
            mapped=truth.latents + seed,
            truth=Truth(truth.latents, truth.codes),
        ),
        initial=rolled[:, 0],
        first=rolled[:, 1],
    )


def test_a_rollout_that_is_the_truth_costs_what_the_tokenizer_itself_loses(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    found = {n: term(aligned(tokenizer, trajectories, trajectories)) for n, term in TERMS.items()}
    assert found["traj"] == found["tokens"] == found["project"] == found["latent"] == 0
    seen = tokenizer(trajectories)
    own = F.mse_loss(tokenizer.vqvae.decode_codes(seen.codes), seen.features)
    torch.testing.assert_close(found["recon"], own)
    torch.testing.assert_close(found["augment"], own)  # the drawn tokens are its own
    torch.testing.assert_close(
        found["ic"], (trajectories[:, 1] - trajectories[:, 0]).square().mean()
    )


def test_another_rollout_has_other_tokens_and_their_divergence_is_that_of_the_distributions(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    other = trajectories.flip(0)
    prediction = aligned(tokenizer, other, trajectories)
    wanted, found = (
        tokenizer.soft_codes(tokenizer(x).latents).double() for x in (trajectories, other)
    )
    expected = torch.stack(
        [
            (wanted[b, q, :k].exp() * (wanted[b, q, :k] - found[b, q, :k])).sum()
            for b in range(len(wanted))
            for q, k in enumerate(tokenizer.vqvae.bank.sizes)
        ]
    ).mean()
    measured = TERMS["tokens"](prediction)
    assert measured > 0.01
    assert float(measured) == pytest.approx(float(expected), rel=1e-4)


def test_soft_codes_are_distributions_that_harden_as_the_temperature_falls(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    seen = tokenizer(trajectories)
    for temperature in (10.0, 1.0, 1e-6):
        shares = tokenizer.soft_codes(seen.latents, temperature).exp()
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:2]))
        assert not shares[:, ~tokenizer.vqvae.bank.code_mask].any()
        assert torch.equal(shares.argmax(-1), seen.codes)
    chosen = shares.gather(-1, seen.codes[..., None])
    torch.testing.assert_close(chosen, torch.ones_like(chosen))


def test_soft_codes_do_not_change_with_the_scale_of_the_latent_space(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    latents = tokenizer(trajectories).latents
    before = tokenizer.soft_codes(latents)
    tokenizer.vqvae.bank.codebooks *= 7
    torch.testing.assert_close(tokenizer.soft_codes(7 * latents), before, rtol=1e-4, atol=1e-4)


def test_the_truths_latents_are_the_tokenizers_whatever_the_batch(
    tiny_data: Path, tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    one, other = (Truths(open_dataset(tiny_data), tokenizer, 9) for _ in range(2))
    whole = one.of([3, 1, 4], CPU)
    torch.testing.assert_close(whole, tokenizer(trajectories[[3, 1, 4]]).latents)
    for place, item in enumerate([3, 1, 4]):
        assert torch.equal(other.of([item], CPU)[0], whole[place])


def drawn(tokenizer: Tokenizer, latents: Tensor, items: list[int], epoch: int | None) -> Tensor:
    return draw_tokens(tokenizer, latents, items, temperature=20.0, seed=3, epoch=epoch)


def test_drawn_tokens_follow_the_soft_assignments(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    latents = tokenizer(trajectories[5:6]).latents
    tokens = torch.stack([drawn(tokenizer, latents, [5], epoch)[0] for epoch in range(800)])
    shares = tokenizer.soft_codes(latents, 20.0).exp()[0]
    for codebook, expected in enumerate(shares):
        found = np.bincount(tokens[:, codebook], minlength=len(expected)) / len(tokens)
        np.testing.assert_allclose(found, expected, atol=0.08)
    assert any(len(tokens[:, q].unique()) > 1 for q in range(tokens.shape[1]))


def test_an_items_draw_does_not_depend_on_its_batch(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    latents = tokenizer(trajectories).latents
    whole = drawn(tokenizer, latents, [*range(12)], 2)
    assert torch.equal(drawn(tokenizer, latents[[7, 2]], [7, 2], 2), whole[[7, 2]])
    assert not torch.equal(drawn(tokenizer, latents, [*range(12)], 3), whole)
    assert not torch.equal(drawn(tokenizer, latents, [*range(12)], None), whole)


def test_at_a_low_temperature_the_drawn_tokens_are_the_truths(
    tokenizer: Tokenizer, trajectories: Tensor
) -> None:
    seen = tokenizer(trajectories)
    tokens = draw_tokens(tokenizer, seen.latents, range(12), temperature=1e-6, seed=3, epoch=1)
    assert torch.equal(tokens, seen.codes)


@pytest.mark.parametrize("term", sorted(TERMS.keys() - STATES))
def test_a_term_that_takes_a_tokenizer_is_refused_without_one(
    document: dict[str, Any], term: str
) -> None:
    loss = {**only("traj"), f"lambda_{term}": 0.5}
    with pytest.raises(ValueError, match=rf"loss.lambda_{term}: it takes a tokenizer"):
        NOATraining.model_validate({**document, "tokenizer": None, "loss": loss})


@pytest.mark.parametrize("term", sorted(OF_TRUTH))
def test_a_term_of_the_truth_says_what_it_lacks(
    tokenizer: Tokenizer, trajectories: Tensor, term: str
) -> None:
    seen = tokenizer(trajectories)
    bare = Alignment(tokenizer, seen, projected=seen.latents, mapped=seen.latents)
    with pytest.raises(ValueError, match="ground truth's latents"):
        TERMS[term](Prediction(trajectories, trajectories, bare))
