"""A trained agent says what it was trained on when it is given something else."""

import pytest
import torch

from spinlock.noa.agent import NeuralOperatorAgent
from spinlock.noa.uafno import UAFNO, UAFNOConfig

SIZES = UAFNOConfig(base_channels=4, encoder_levels=1, modes=2, afno_blocks=1, blocks_per_level=1)


@pytest.fixture(scope="module")
def agent() -> NeuralOperatorAgent:
    return NeuralOperatorAgent(
        UAFNO(SIZES, channels=2, grid=(8, 12), parameters=3),
        channels=("u", "v"),
        parameters=("nu", "dt", "alpha"),
        grid=(8, 12),
        metrics={},
        provenance={},
    )


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_rollout_begins_at_its_initial_field(agent: NeuralOperatorAgent, steps: int) -> None:
    initial = torch.randn(2, 2, 8, 12)
    frames = agent.rollout(initial, torch.zeros(2, 3), steps)
    assert frames.shape == (2, steps + 1, 2, 8, 12)
    assert torch.equal(frames[:, 0], initial)


@pytest.mark.parametrize(
    ("field", "parameters", "words"),
    [
        ((1, 1, 8, 12), (1, 3), r"\[1, 8, 12\]; trained on \[2, 8, 12\], the channels u, v"),
        ((1, 2, 16, 16), (1, 3), r"\[2, 16, 16\]; trained on \[2, 8, 12\]"),
        ((1, 2, 12, 8), (1, 3), r"\[2, 12, 8\]; trained on \[2, 8, 12\]"),
        ((1, 2, 8, 12), (1, 2), r"\[1, 2\]; expected \[1, 3\]: for each field nu, dt, alpha"),
        ((1, 2, 8, 12), (1, 0), r"\[1, 0\]; expected \[1, 3\]"),
    ],
)
def test_other_sizes_than_those_trained_on_are_refused_with_both(
    agent: NeuralOperatorAgent, field: tuple[int, ...], parameters: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        agent.rollout(torch.zeros(field), torch.zeros(parameters), 2)


def test_steps_cannot_be_negative(agent: NeuralOperatorAgent) -> None:
    with pytest.raises(ValueError, match="at least 0, not -1"):
        agent.rollout(torch.zeros(1, 2, 8, 12), torch.zeros(1, 3), -1)
