"""The CNO family: its networks, its noise, its updates."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from spinlock.domains.base import operator_seeds
from spinlock.domains.cno import CNO, TOGETHER, CNOConfig, KernelSize
from spinlock.domains.cno_network import (
    Activation,
    Boundary,
    ConvBlock,
    Design,
    Member,
    Network,
    Noise,
    NoiseType,
    Normalization,
    ResidualBlock,
    StochasticBlock,
    generator,
)
from spinlock.domains.parameters import Choice, Continuous, Integer, Log
from spinlock.errors import GroundTruthError

SILENT = Log(low=1e-30, high=1e-30)  # x + 1e-30 n == x in float32
SMALL = {
    "num_layers": Integer(low=2, high=3),
    "base_channels": Integer(low=4, high=8),
    "kernel_size": Choice(values=(3, 5)),
}


def design(**changes: object) -> Design:
    values = {
        "channels": 2,
        "num_layers": 2,
        "base_channels": 8,
        "kernel_size": 3,
        "activation": "gelu",
        "normalization": "instance",
        "boundary": "zeros",
    }
    return Design(**(values | changes))


def noise(**changes: object) -> Noise:
    values = {
        "scale": 0.1,
        "kind": "additive",
        "correlation": 0.0,
        "schedule": "constant",
        "horizon": 10,
        "period": 8,
    }
    return Noise(**(values | changes))


def run(domain: CNO, frames: int = 4, count: int = 4, initial: Tensor | None = None) -> Tensor:
    """Trajectories `[count, M, frames, C, 16, 16]` of the family's first operators."""
    seeds = operator_seeds(1, range(count))
    fields = domain.initial(seeds, 16) if initial is None else initial
    return domain.rollout(domain.sample(count, seed=2), seeds, fields, frames)


def family(policy: str, **changes: object) -> CNO:
    return CNOConfig(**SMALL, update_policy=Choice(values=(policy,)), **changes).build()


def test_every_update_is_the_image_mixed_with_the_state_as_its_name_says():
    image = run(family("autoregressive"), frames=2)
    initial, image = image[:, :, 0], image[:, :, 1]
    residual = run(family("residual", dt=0.1), frames=2)[:, :, 1]
    convex = run(family("convex", alpha=0.7), frames=2)[:, :, 1]
    torch.testing.assert_close(residual, initial + 0.1 * image)
    torch.testing.assert_close(convex, 0.7 * initial + 0.3 * image)


def test_a_convex_update_without_memory_is_autoregressive():
    assert torch.equal(run(family("convex", alpha=0.0)), run(family("autoregressive")))


@pytest.mark.parametrize("still", [family("convex", alpha=1.0), family("residual", dt=0.0)])
def test_an_update_that_ignores_the_image_stands_still(still):
    trajectory = run(still)
    assert torch.equal(trajectory, trajectory[:, :, :1].expand_as(trajectory))


def test_on_a_periodic_domain_a_translated_start_gives_a_translated_trajectory():
    domain = family("residual", dt=0.5, boundary="circular", noise_scale=SILENT)
    initial = domain.initial(operator_seeds(1, range(4)), 16)
    shift = {"shifts": (3, -5), "dims": (-2, -1)}
    found = run(domain, initial=initial.roll(**shift))
    torch.testing.assert_close(found, run(domain, initial=initial).roll(**shift))


def test_zeros_beyond_the_boundary_are_felt_there_first():
    around, inside = (
        run(family("autoregressive", boundary=boundary, noise_scale=SILENT), frames=2)
        for boundary in ("circular", "zeros")
    )
    assert (around - inside)[:, :, 1].abs().amax() > 1e-3


EVERY = {
    "num_layers": Integer(low=2, high=4),
    "base_channels": Integer(low=4, high=8),
    "kernel_size": Choice(values=(3, 5)),
    "activation": Choice(values=("gelu", "tanh")),
    "noise_type": Choice(values=("additive", "multiplicative")),
    "noise_scale": Log(low=1e-3, high=1.0),
    "noise_schedule": Choice(values=("constant", "periodic")),
    "spatial_correlation": Continuous(low=0.0, high=0.3),
    "normalization": Choice(values=("instance", "group")),
    "update_policy": Choice(values=("residual", "convex")),
}


def test_the_parameters_below_are_all_that_the_family_has():
    assert tuple(EVERY) == CNOConfig().build().parameter_names


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_parameter_changes_the_trajectory(name):
    domain = CNOConfig(**EVERY).build()
    unit = np.full((2, len(EVERY)), 0.4)
    unit[1, domain.parameter_names.index(name)] = 0.9
    seeds = operator_seeds(0, [0, 0])
    low, high = domain.rollout(unit, seeds, domain.initial(seeds, 16), frames=4)
    assert (low - high).abs().max() > 1e-5


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_a_block_is_torchs_own_convolution_instance_norm_and_activation(activation):
    block = ConvBlock(3, 8, design(activation=activation), [torch.Generator().manual_seed(0)])
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    convolution.load_state_dict({"weight": block.convolution.weight})
    functional = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}[activation]
    reference = nn.Sequential(convolution, nn.InstanceNorm2d(8, affine=True), functional())
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(block(x), reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("normalization", "groups"), [("instance", 12), ("layer", 1), ("group", 4)]
)
def test_a_normalization_centres_and_scales_each_of_its_groups(normalization, groups):
    block = ConvBlock(2, 12, design(normalization=normalization), [torch.Generator()])
    block.activation = nn.Identity()
    values = block(torch.randn(3, 2, 9, 9)).reshape(3, groups, -1)
    torch.testing.assert_close(values.mean(-1), torch.zeros(3, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        values.std(-1, correction=0), torch.ones(3, groups), atol=1e-3, rtol=0
    )
    assert block.convolution.bias is None


def test_without_normalization_the_convolution_has_a_bias_and_nothing_follows_it():
    block = ConvBlock(2, 12, design(normalization="none"), [torch.Generator()])
    block.activation = nn.Identity()
    x = torch.randn(3, 2, 9, 9)
    assert block.convolution.bias.abs().min() > 0
    assert torch.equal(block(x), block.convolution(x))


@pytest.mark.parametrize(
    ("layers", "widths"), [(1, [8]), (2, [8, 16]), (3, [8, 16, 32]), (5, [8, 16, 32, 32, 32])]
)
def test_widths_double_twice_and_more_than_three_layers_are_residual(layers, widths):
    network = Network(design(num_layers=layers), [Member(noise(), 0)], 16, 16)
    kind = ResidualBlock if layers > 3 else ConvBlock
    assert [type(block) for block in network.blocks] == [ConvBlock] + [kind] * layers
    firsts = [b.blocks[0] if layers > 3 else b for b in list(network.blocks)[1:]]
    assert [block.convolution.out_channels for block in firsts] == widths
    assert network.output.in_channels == widths[-1]


@pytest.mark.parametrize("layers", [2, 4])
def test_the_layout_of_the_weights_changes_nothing_but_rounding(layers):
    contiguous = Network(design(num_layers=layers), [Member(noise(), 0)], 31, 32)
    last = Network(design(num_layers=layers), [Member(noise(), 0)], 31, 32)
    last.to(memory_format=torch.channels_last)
    state = torch.randn(2, 2, 31, 32)
    seen = contiguous.blocks(state), last.blocks(state)
    assert [y.is_contiguous(memory_format=torch.channels_last) for y in seen] == [False, True]
    torch.testing.assert_close(contiguous(state, 3), last(state, 3), rtol=1e-4, atol=1e-5)


def test_weights_follow_torchs_default_distribution():
    network = Network(design(base_channels=32, normalization="none"), [Member(noise(), 0)], 16, 16)
    for layer in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (Network(design(), [Member(noise(), seed)], 16, 16) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for key, weights in one.state_dict().items():
        assert torch.equal(weights, same.state_dict()[key])
    assert not torch.equal(one.output.weight, other.output.weight)


@given(
    st.builds(
        design,
        channels=st.integers(1, 3),
        num_layers=st.integers(1, 5),
        base_channels=st.integers(3, 12),
        kernel_size=st.sampled_from(get_args(KernelSize)),
        activation=st.sampled_from(get_args(Activation)),
        normalization=st.sampled_from(get_args(Normalization)),
        boundary=st.sampled_from(get_args(Boundary)),
    ),
    st.integers(1, 3),
    st.sampled_from([(8, 8), (16, 16), (32, 32), (8, 24), (4, 48)]),
    st.lists(st.sampled_from(get_args(NoiseType)), min_size=2, max_size=TOGETHER),
)
@settings(max_examples=40, deadline=None)
def test_operators_computed_together_have_the_bits_of_each_alone(design, realizations, grid, kinds):
    members = [Member(noise(kind=kind, correlation=0.1), seed) for seed, kind in enumerate(kinds)]
    states = torch.randn(len(members), realizations, design.channels, *grid)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            together = Network(design, members, *grid)(states.flatten(0, 1), 3)
            alone = [
                Network(design, [m], *grid)(x, 3) for m, x in zip(members, states, strict=True)
            ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("threads", [1, 3])
def test_operators_replay_whether_their_groups_are_large_small_or_of_one(threads):
    # On 32x32 those of width 20 are computed together, those of width 21 alone.
    family = CNOConfig(
        num_layers=Integer(low=1, high=1),
        base_channels=Integer(low=20, high=21),
        kernel_size=Choice(values=(3,)),
    ).build()
    unit, seeds = family.sample(16, seed=1), operator_seeds(2, range(16))
    initial = family.initial(seeds, 32)

    def trajectories(which: list[int]) -> Tensor:
        return family.rollout(unit[which], seeds[which], initial[which], frames=3)

    before = torch.get_num_threads()
    alone = torch.cat([trajectories([index]) for index in range(16)])
    torch.set_num_threads(threads)
    try:
        shuffled = [7, 3, 15, 0, 8, 1, 12, 4, 9, 2]
        assert torch.equal(trajectories(shuffled), alone[shuffled])
        assert torch.equal(trajectories(list(range(16))), alone)
    finally:
        torch.set_num_threads(before)


def test_streams_of_seeds_that_agree_in_their_low_32_bits_differ():
    # torch's CPU generator, seeded with them directly, would give the same numbers twice.
    low, high = (torch.rand(4, generator=generator(seed, 1)) for seed in (5, 5 + 2**32))
    assert not torch.equal(low, high)


def test_a_stream_is_a_mersenne_twister_whose_whole_state_is_drawn_from_the_key():
    words = np.random.SeedSequence(5, spawn_key=(1, 2)).generate_state(624)
    words[0] = 0x80000000
    reference = np.random.MT19937()
    reference.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    expected = (reference.random_raw(2000) % 2**31).astype(np.int32)
    found = torch.empty(2000, dtype=torch.int32).random_(generator=generator(5, 1, 2))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_seeds_whose_mixtures_collide_in_32_bits_give_different_streams():
    # The first such pair among operator_seeds(0, ..): operator 28496 and an earlier one.
    pair = (7667023279053785484, 18052211343013371182)
    mixtures = [np.random.SeedSequence(s, spawn_key=(0,)).generate_state(1) for s in pair]
    assert mixtures[0] == mixtures[1]
    one, other = (torch.rand(4, generator=generator(seed, 0)) for seed in pair)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["num_layers", "base_channels"])
@pytest.mark.parametrize("low", [0, -2])
def test_a_range_that_begins_below_one_is_refused_by_its_name(name, low):
    with pytest.raises(ValidationError, match=f"{name} must be at least 1, .* at {low}"):
        CNOConfig(**{name: Integer(low=low, high=3)})


@pytest.mark.parametrize("correlation", [0.0, 0.05])
def test_noise_is_a_function_of_seed_realization_and_step_alone(correlation):
    block = StochasticBlock(noise(correlation=correlation), 3, 32, 32)
    fields = block.fields(3, 4, step=5)
    assert torch.equal(block.fields(1, 4, step=5)[0], fields[0])  # however many realizations
    assert torch.equal(block.fields(3, 4, step=5), fields)  # and calls
    assert not torch.equal(block.fields(3, 4, step=6), fields)
    assert not torch.equal(StochasticBlock(block.noise, 4, 32, 32).fields(3, 4, 5), fields)


@pytest.mark.parametrize("correlation", [0.0, 0.03, 0.1, 0.3])
def test_noise_has_unit_variance_at_any_correlation(correlation):
    block = StochasticBlock(noise(correlation=correlation), 0, 24, 40)
    assert block.fields(2, 2000, step=0).square().mean().item() == pytest.approx(1, abs=0.05)


def test_noise_correlates_over_the_length_asked_for():
    fields = StochasticBlock(noise(correlation=4 / 32), 0, 32, 32).fields(1, 500, step=0)
    for dim in (-1, -2):
        found = (fields * fields.roll(4, dim)).mean().item()
        assert found == pytest.approx(math.exp(-0.5), abs=0.05)


def test_realizations_and_steps_are_independent():
    block = StochasticBlock(noise(), 0, 32, 32)
    samples = torch.cat([block.fields(3, 8, step=0), block.fields(3, 8, step=1)]).flatten(1)
    assert (torch.corrcoef(samples) - torch.eye(6)).abs().max() < 0.05
    paths = run(family("residual", realizations=3, noise_scale=Log(low=0.1, high=0.1)), frames=3)
    assert (paths[:, 0, 1] - paths[:, 1, 1]).abs().max() > 1e-5


def test_additive_noise_adds_and_multiplicative_noise_scales():
    x = torch.full((1, 4, 16, 16), 2.0)
    for kind, deviation in (("additive", 0.1), ("multiplicative", 0.2)):
        y = StochasticBlock(noise(kind=kind), 0, 16, 16)(x, 0)
        assert (y - x).std().item() == pytest.approx(deviation, rel=0.1)


def test_schedules_start_at_the_scale_and_run_their_course():
    assert [noise().strength(step) for step in (0, 50)] == [0.1, 0.1]
    annealing = noise(schedule="annealing")
    assert [annealing.strength(s) for s in (0, 5, 10, 99)] == pytest.approx([0.1, 0.05, 0, 0])
    periodic = noise(schedule="periodic")
    assert [periodic.strength(s) for s in (0, 2, 6, 8)] == pytest.approx([0.1, 0.15, 0.05, 0.1])


def test_a_runaway_is_refused_with_the_first_operator_its_parameters_and_the_frame():
    domain = family("residual", dt=1e6, limit=100.0)
    with pytest.raises(GroundTruthError) as caught:
        run(domain)
    message = str(caught.value)
    assert "operator 0 (seed" in message
    assert "at frame 1 of realization 0, beyond the limit 100" in message
    for name, value in domain.physical(domain.sample(1, seed=2))[0].items():
        assert f"{name} {value}" in message
    assert torch.get_num_threads() == 1


def test_a_limit_is_inclusive():
    domain = family("residual", dt=0.0, limit=2.0)
    assert run(domain, initial=torch.full((4, 1, 16, 16), 2.0)).amax() == 2


def test_a_trajectory_without_frames_is_a_mistake():
    with pytest.raises(ValueError, match="at least 1"):
        run(family("residual"), frames=0)
