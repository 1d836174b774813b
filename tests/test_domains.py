"""What every family of AnyDomain promises, whatever its equation."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from spinlock.domains import AnyDomain
from spinlock.domains.base import Domain, operator_seeds
from spinlock.domains.cno import CNOConfig
from spinlock.domains.parameters import Choice, Continuous, Integer
from spinlock.errors import GroundTruthError

SMALL = {
    "cno": CNOConfig(
        channels=2,
        realizations=2,
        num_layers=Integer(low=1, high=4),
        base_channels=Integer(low=4, high=8),
        activation=Choice(values=("gelu", "relu", "silu", "tanh")),
        normalization=Choice(values=("instance", "layer", "group", "none")),
        spatial_correlation=Continuous(low=0.0, high=0.2),
        noise_type=Choice(values=("additive", "multiplicative")),
        noise_schedule=Choice(values=("constant", "annealing", "periodic")),
        update_policy=Choice(values=("autoregressive", "residual", "convex")),
    )
}
COUNT, GRID, FRAMES = 6, 20, 4


@pytest.fixture(params=sorted(SMALL))
def domain(request: pytest.FixtureRequest) -> Domain:
    return SMALL[request.param].build()


def trajectories(domain: Domain, which: list[int], frames: int = FRAMES) -> torch.Tensor:
    unit = domain.sample(COUNT, seed=3)[which]
    seeds = operator_seeds(5, which)
    return domain.rollout(unit, seeds, domain.initial(seeds, GRID), frames)


def test_every_family_has_a_small_config_here_and_its_own_name():
    accepted = TypeAdapter(AnyDomain).json_schema()
    union = accepted.get("discriminator", {}).get("mapping")
    assert set(SMALL) == set(union or [accepted["properties"]["kind"]["const"]])
    for name, config in SMALL.items():
        assert config.build().name == name == config.kind


def test_a_config_survives_json(domain):
    config = SMALL[domain.name]
    document = json.loads(json.dumps(config.model_dump(mode="json")))
    assert type(config).model_validate(document) == config


def test_trajectories_begin_at_the_initial_condition_and_are_finite(domain):
    seeds = operator_seeds(5, range(COUNT))
    initial = domain.initial(seeds, GRID)
    found = trajectories(domain, list(range(COUNT)))
    channels = len(domain.channel_names)
    assert found.shape == (COUNT, domain.realizations, FRAMES, channels, GRID, GRID)
    assert found.dtype == initial.dtype == torch.float32
    assert found.isfinite().all()
    for realization in range(domain.realizations):
        assert torch.equal(found[:, realization, 0], initial)


@pytest.mark.parametrize("which", [[2], [4, 1], [5, 3, 0, 2, 1, 4]])
def test_an_operator_gives_the_same_bits_in_any_batch_and_order(domain, which):
    everything = trajectories(domain, list(range(COUNT)))
    assert torch.equal(trajectories(domain, which), everything[which])


def test_a_longer_trajectory_begins_with_the_shorter_one(domain):
    longer = trajectories(domain, [0, 1], frames=6)
    assert torch.equal(trajectories(domain, [0, 1], frames=3), longer[:, :, :3])
    assert trajectories(domain, [0], frames=1).shape[2] == 1


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was(domain):
    alone = trajectories(domain, list(range(COUNT)))
    torch.set_num_threads(3)
    assert torch.equal(trajectories(domain, list(range(COUNT))), alone)
    assert torch.get_num_threads() == 3


def test_the_state_of_the_caller_changes_no_bit_nor_is_changed(domain):
    expected = trajectories(domain, [0, 3])
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = trajectories(domain, [0, 3])
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.requires_grad
    assert not found.is_inference()


def test_another_seed_or_parameter_vector_is_another_trajectory(domain):
    unit, seeds = domain.sample(2, seed=3), operator_seeds(5, [0, 1])
    initial = domain.initial(seeds, GRID)
    reference = domain.rollout(unit[:1], seeds[:1], initial[:1], FRAMES)
    assert not torch.equal(domain.rollout(unit[1:], seeds[:1], initial[:1], FRAMES), reference)
    assert not torch.equal(domain.rollout(unit[:1], seeds[1:], initial[:1], FRAMES), reference)


def test_a_larger_sample_begins_with_the_smaller_one(domain):
    assert np.array_equal(domain.sample(5, seed=1), domain.sample(64, seed=1)[:5])
    assert not np.array_equal(domain.sample(5, seed=1), domain.sample(5, seed=2))


def test_a_power_of_two_of_points_puts_one_in_each_slice_of_every_axis(domain):
    points = domain.sample(64, seed=9)
    assert points.shape == (64, len(domain.parameter_names))
    for axis in points.T:
        assert sorted((axis * 64).astype(int)) == list(range(64))


def test_theta_lies_in_the_unit_cube_and_every_entry_of_it_varies(domain):
    theta = domain.conditioning(domain.sample(64, seed=1))
    assert theta.shape == (64, len(domain.conditioning_names))
    assert theta.dtype == np.float32
    assert theta.min() >= 0
    assert theta.max() <= 1
    assert (theta.std(0) > 0).all()


def test_physical_values_have_the_names_of_the_axes(domain):
    (values,) = domain.physical(domain.sample(1, seed=0))
    assert tuple(values) == domain.parameter_names
    assert len(set(domain.channel_names)) == len(domain.channel_names)


def test_a_state_that_is_not_finite_is_refused_with_all_that_names_it(domain):
    unit, seeds = domain.sample(2, seed=3), operator_seeds(5, [10, 11])
    initial = domain.initial(seeds, GRID)
    initial[1, 0, 3, 4] = torch.nan
    with pytest.raises(GroundTruthError) as caught:
        domain.rollout(unit, seeds, initial, FRAMES, first=10)
    message = str(caught.value)
    for part in (f"operator 11 (seed {seeds[1]})", "nan at frame 0", *domain.parameter_names):
        assert part in message


def test_operator_seeds_do_not_depend_on_how_many_are_asked_for():
    seeds = operator_seeds(7, range(1000))
    assert np.array_equal(operator_seeds(7, [999, 3]), seeds[[999, 3]])
    assert len(np.unique(seeds)) == 1000
    assert not np.array_equal(operator_seeds(8, range(1000)), seeds)
    assert (seeds > 2**32).any()
