"""The bank of codebooks: moved like the published formula, alive, and resumed exactly."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from spinlock.vqvae.layout import Level
from spinlock.vqvae.model import straight_through
from spinlock.vqvae.quantizer import CodebookBank

LEVELS = (
    Level(num_tokens=9, latent_dim=4),
    Level(num_tokens=5, latent_dim=8),
    Level(num_tokens=2, latent_dim=3),
)


def make_bank(interval=10_000, percentile=10.0, decay=0.9, seed=0, levels=LEVELS):
    torch.manual_seed(seed)
    return CodebookBank(levels, decay, interval, percentile)


def latents(count, seed, levels=LEVELS):
    """Padded latents around a few centres per codebook."""
    generator = torch.Generator().manual_seed(seed)
    width = max(level.latent_dim for level in levels)
    padded = torch.zeros(count, len(levels), width)
    for q, level in enumerate(levels):
        centres = torch.randn(6, level.latent_dim, generator=torch.Generator().manual_seed(q))
        chosen = centres[torch.randint(6, (count,), generator=generator)]
        noise = 0.1 * torch.randn(chosen.shape, generator=generator)
        padded[:, q, : level.latent_dim] = chosen + noise
    return padded


def oracle(level, codes, eps):
    """One codebook of the published library, set as ours is: no reset, no smoothing but `eps`."""
    published = VectorQuantize(
        dim=level.latent_dim,
        codebook_size=level.num_tokens,
        decay=0.9,
        eps=eps,
        threshold_ema_dead_code=0,
        rotation_trick=False,
        commitment_weight=1.0,
    )
    book = published._codebook
    book.embed.copy_(codes[None])
    book.embed_avg.copy_(codes[None])
    return published.train()


def against_the_oracle(eps, updates=20):
    """Ours and theirs after the same updates, codebook by codebook, the codes compared on the way.

    Both start from codes among the latents and one that nothing is near, so that it is never used.
    """
    bank = make_bank()
    with torch.no_grad():
        bank.codebooks[0, 8, :4] = 50.0
        bank.sums.copy_(bank.codebooks)
    own = [
        bank.codebooks[q, : level.num_tokens, : level.latent_dim] for q, level in enumerate(LEVELS)
    ]
    theirs = [oracle(level, codes, eps) for level, codes in zip(LEVELS, own, strict=True)]
    bank.train()
    for step in range(updates):
        batch = latents(64, step)
        codes = bank(batch)
        bank.commit()
        for q, (published, level) in enumerate(zip(theirs, LEVELS, strict=True)):
            part = batch[None, :, q, : level.latent_dim].requires_grad_()
            vectors, expected, commitment = published(part)
            assert torch.equal(codes[:, q], expected[0])
            yield bank, q, level, part, vectors, commitment, published._codebook


def test_the_moving_averages_equal_vector_quantize_pytorch():
    close = {"rtol": 1e-5, "atol": 1e-5}
    for bank, q, level, *_, book in against_the_oracle(eps=1e-12):
        k, e = level.num_tokens, level.latent_dim
        torch.testing.assert_close(bank.counts[q, :k], book.cluster_size[0], **close)
        torch.testing.assert_close(bank.sums[q, :k, :e], book.embed_avg[0], **close)
        torch.testing.assert_close(bank.codebooks[q, :k, :e], book.embed[0], **close)


def test_laplace_smoothing_is_what_differs_from_the_published_defaults():
    """Theirs divides by (N_k + eps) / (sum N + K eps) sum N; ours by N_k, and leaves unused codes
    where they are, while theirs shrink towards the origin as N_k decays into eps.
    """
    for bank, q, level, *_, book in against_the_oracle(eps=1e-5, updates=100):
        k, e = level.num_tokens, level.latent_dim
        counts = bank.counts[q, :k, None]
        smoothed = (counts + 1e-5) / (counts.sum() + k * 1e-5) * counts.sum()
        expected = bank.codebooks[q, :k, :e] * counts / smoothed
        torch.testing.assert_close(book.embed[0], expected, rtol=1e-3, atol=1e-4)
    assert (book.embed.isfinite()).all()
    unused = bank.counts[0, 8]
    assert unused == pytest.approx(0.9**100, rel=1e-3)
    assert (bank.codebooks[0, 8, :4] == 50).all()


def test_straight_through_and_commitment_equal_vector_quantize_pytorch():
    for bank, q, level, part, vectors, commitment, _ in against_the_oracle(eps=1e-12, updates=3):
        del bank, q, level
        codes = vectors.detach()
        upstream = torch.randn_like(part)
        (own,) = torch.autograd.grad(straight_through(part, codes), part, upstream)
        (their,) = torch.autograd.grad(vectors, part, upstream, retain_graph=True)
        torch.testing.assert_close(own, their)
        torch.testing.assert_close(F.mse_loss(part, codes), commitment, rtol=1e-5, atol=1e-6)


def test_each_latent_takes_its_nearest_code():
    bank, batch = make_bank().eval(), latents(50, 0)
    codes = bank(batch)
    for q, level in enumerate(LEVELS):
        book = bank.codebooks[q, : level.num_tokens, : level.latent_dim]
        expected = torch.cdist(batch[:, q, : level.latent_dim], book).argmin(1)
        assert torch.equal(codes[:, q], expected)


def test_a_code_is_its_own_nearest():
    bank = make_bank().eval()
    bank.initialise(latents(300, 0))
    codes = bank(latents(100, 1))
    assert torch.equal(bank(bank.lookup(codes)), codes)


def test_codes_that_nothing_uses_stay_where_they_are():
    bank = make_bank(decay=0.5).train()
    away = latents(32, 0) + 50  # one code per codebook is nearest to all of these
    before = bank.codebooks.clone()
    for _ in range(200):  # the counts of the others are 0 by then
        bank(away)
        bank.commit()
    used = torch.zeros_like(bank.code_mask)
    used.scatter_(1, bank.nearest(away).T, True)
    assert torch.equal(bank.codebooks[~used], before[~used])
    assert (bank.counts[~used] == 0).all()
    assert bank.codebooks.isfinite().all()


def test_micro_batches_move_the_codebooks_as_the_whole_batch_does():
    whole, parts = make_bank().train(), make_bank().train()
    for step in range(5):
        batch = latents(48, step)
        whole(batch)
        whole.commit()
        for part in batch.split(10):
            parts(part)
        parts.commit()
    torch.testing.assert_close(whole.codebooks, parts.codebooks)
    torch.testing.assert_close(whole.counts, parts.counts)


def test_a_skipped_update_leaves_no_trace():
    bank, other = make_bank().train(), make_bank().train()
    bank(latents(16, 9))
    bank.discard()
    for each in (bank, other):
        each(latents(16, 1))
        each.commit()
    assert torch.equal(bank.codebooks, other.codebooks)


def test_evaluation_moves_nothing():
    bank = make_bank().eval()
    before = copy.deepcopy(bank.state_dict())
    bank(latents(16, 0))
    bank.commit()
    for name, value in bank.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_initialised_codebooks_are_all_in_use():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(400, 3, 8, generator=generator) * make_bank().entry_mask
    bank = make_bank().eval()
    bank.initialise(data)
    codes = bank(data)
    assert [len(codes[:, q].unique()) for q in range(3)] == [9, 5, 2]
    error = (bank.lookup(codes) - data).square().sum((0, 2))
    random = make_bank().eval()
    assert (error < (random.lookup(random(data)) - data).square().sum((0, 2))).all()
    assert (bank.codebooks * (1 - bank.entry_mask[:, None])).abs().max() == 0


def test_initialising_takes_fewer_samples_than_codes():
    bank = make_bank()
    bank.initialise(latents(3, 0))
    assert bank.codebooks.isfinite().all()


def test_a_reset_brings_dead_codes_to_the_data_and_spares_a_healthy_codebook():
    bank = make_bank(interval=5, percentile=100.0, decay=0.5).train()
    data = latents(64, 0)
    bank.initialise(data)
    healthy = bank.codebooks[1:].clone()
    with torch.no_grad():
        bank.codebooks[0, 7:9, :4] = 100.0
        bank.sums[0, 7:9] = 0.0
        bank.counts[0, 7:9] = 0.0
    assert bank.dead_codes().nonzero().tolist() == [[0, 7], [0, 8]]
    for _ in range(5):
        bank(data)
        bank.commit()
    assert not bank.dead_codes().any()
    assert bank.codebooks[0].abs().max() < 10
    moved = bank.codebooks[0, 7:9, None, :4]
    assert (moved == data[:, 0, :4]).all(-1).any(1).all()
    torch.testing.assert_close(bank.codebooks[1:], healthy, rtol=0.2, atol=0.2)


def test_the_percentile_limits_how_many_codes_a_reset_takes():
    bank = make_bank(levels=(Level(num_tokens=40, latent_dim=4),), percentile=10.0)
    with torch.no_grad():
        bank.counts[0, :30] = torch.linspace(1e-6, 1e-5, 30)
    assert bank.dead_codes().sum() == 4
    bank.reset_percentile = 100.0
    assert bank.dead_codes().sum() == 10  # a quarter at most


def test_training_resumed_from_state_equals_training_straight_through():
    straight = make_bank(interval=3, percentile=100.0, decay=0.5).train()

    def go(bank, steps):
        for step in steps:
            bank(latents(20, step) * (1 + step))
            bank.commit()

    go(straight, range(5))
    resumed = make_bank(interval=3, percentile=100.0, decay=0.5, seed=1).train()
    resumed.load_state_dict(straight.state_dict())
    go(straight, range(5, 12))
    torch.rand(7)  # the global generator must not matter
    go(resumed, range(5, 12))
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def _rank(rank, meeting, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for interval in (2, 100):
        bank = make_bank(interval=interval, percentile=100.0, decay=0.5).train()
        for step in range(6):
            batch = latents(20, step) * (1 + step)
            part = batch[rank::2] if step != 3 else batch[rank * 20 :]  # rank 1 sees nothing
            if len(part):
                bank(part)
            bank.commit()
        state = {name: value.numpy() for name, value in bank.state_dict().items()}
        queue.put(((rank, interval), state))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_move_the_codebooks_together(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, tmp_path / "meeting", queue)) for rank in range(2)
    ]
    for process in ranks:
        process.start()
    found = dict(queue.get(timeout=120) for _ in range(4))
    for process in ranks:
        process.join(timeout=60)
    for interval in (2, 100):
        for name, value in found[0, interval].items():
            assert (value == found[1, interval][name]).all(), name
    alone = make_bank(interval=100, decay=0.5).train()
    for step in range(6):
        alone(latents(20, step) * (1 + step))
        alone.commit()
    torch.testing.assert_close(torch.from_numpy(found[0, 100]["codebooks"]), alone.codebooks)
