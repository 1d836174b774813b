"""Steps of both networks, timed side by side: a part of benchmarks/noa.py."""

import statistics
from collections.abc import Callable

import torch
from noa_parts import network, seconds
from plain_uafno import PlainUAFNO, group_norm, plain_rollout, plain_taps
from torch import Tensor, nn

from spinlock.noa import ComputeConfig, UAFNOConfig, rollout

Times = dict[tuple[str, str], float]


def equal_outputs() -> list[str]:
    """Both from the same weights, the prototype's with our normalization."""
    rows = [
        "| | largest difference of the next state | of the update | relative, of its gradient |",
        "|---|---|---|---|",
    ]
    ours, state, theta = network()
    plain = PlainUAFNO(UAFNOConfig(), group_norm)
    plain.take(ours)
    found = []
    for step in (lambda x: ours(x, ours.condition(theta)).state, plain):
        given = state.clone().requires_grad_()
        after = step(given)
        after.square().mean().backward()
        assert given.grad is not None
        found.append((after.detach(), given.grad))
    (after, slope), (plain_after, plain_slope) = found
    off, update = (after - plain_after).abs().max(), (plain_after - state).abs().max()
    of_slope = (slope - plain_slope).norm() / plain_slope.norm()
    return [*rows, f"| single precision | {off:.0e} | {off / update:.0e} | {of_slope:.0e} |"]


def variants(window: int) -> dict[tuple[str, str], Callable[[], object]]:
    """What is timed, by (network, what): each is `window` steps, or one optimizer update."""
    ours, initial, theta = network()
    plain = PlainUAFNO(UAFNOConfig())
    updates = {
        name: torch.optim.AdamW(model.parameters())
        for name, model in (("spinlock", ours), ("prototype", plain))
    }

    def supervised(compute: ComputeConfig) -> None:
        ours.zero_grad()
        rolled = rollout(ours, initial, theta, timesteps=window, window=window, compute=compute)
        rolled.supervised.square().mean().backward()

    def forward() -> None:
        with torch.no_grad():
            rollout(ours, initial, theta, timesteps=window, window=window)

    def plain_supervised(taps: bool = False, checkpointed: bool = True) -> None:
        plain.zero_grad()
        states = plain_rollout(plain, initial, 0, window, checkpointed)
        loss = torch.stack(states, 1).square().mean()
        if taps:
            loss = loss + plain_taps(plain, states[:1]).square().mean()
        loss.backward()

    return {
        ("spinlock", "forward"): forward,
        ("prototype", "forward"): lambda: [warmed(plain, initial) for _ in range(window)],
        ("spinlock", "supervised"): lambda: supervised(ComputeConfig()),
        ("spinlock", "checkpointed"): lambda: supervised(ComputeConfig(checkpoint_steps=True)),
        ("prototype", "supervised"): plain_supervised,
        ("prototype", "not checkpointed"): lambda: plain_supervised(checkpointed=False),
        ("spinlock", "AdamW"): updates["spinlock"].step,
        ("prototype", "one state more"): lambda: plain_supervised(taps=True),
        ("prototype", "AdamW"): updates["prototype"].step,
    }


@torch.no_grad()
def warmed(model: nn.Module, state: Tensor) -> Tensor:
    after: Tensor = model(state)
    return after


def times(window: int, rounds: int) -> Times:
    """CPU seconds a step (an update for AdamW), after a round that warms up."""
    runs, spent = variants(window), dict[tuple[str, str], list[float]]()
    for _ in range(rounds + 1):
        for name, run in runs.items():
            spent.setdefault(name, []).append(seconds(run))
    return {
        name: statistics.median(each[1:]) / (1 if name[1] == "AdamW" else window)
        for name, each in spent.items()
    }
