"""What a NOA's training step is made of, and what its options do: parts of benchmarks/noa.py."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, generate
from spinlock.domains.base import operator_seeds
from spinlock.domains.cno import CNOConfig
from spinlock.features import FeatureConfig, Standardizer, extract, feature_names
from spinlock.features.standardizer import CleaningConfig
from spinlock.noa import UAFNO, ComputeConfig, LatentProjector, UAFNOConfig, rollout
from spinlock.vqvae import VQVAE, Tokenizer, VQVAEConfig, discover, plan

BATCH, GRID, PARAMETERS = 4, 64, 12


def network(batch: int = BATCH) -> tuple[UAFNO, Tensor, Tensor]:
    """The default architecture, initial fields and operator parameters."""
    torch.manual_seed(0)
    model = UAFNO(UAFNOConfig(), channels=1, grid=(GRID, GRID), parameters=PARAMETERS)
    return model, torch.randn(batch, 1, GRID, GRID), torch.randn(batch, PARAMETERS)


def seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def median(run: Callable[[], object], rounds: int) -> float:
    run()
    return statistics.median(seconds(run) for _ in range(rounds))


def tokenizer(frames: int) -> Tokenizer:
    """A tokenizer of all features, of the default size, its statistics those of random walks."""
    torch.manual_seed(0)
    features, config = FeatureConfig(), VQVAEConfig()
    walks = torch.randn(64, 9, 1, 16, 16).cumsum(1) * torch.rand(64, 1, 1, 1, 1)
    values = extract(walks, features)
    standardizer = Standardizer.fit(values, feature_names(features), CleaningConfig())
    standardized = standardizer(values)
    found = discover(standardized.numpy(), standardizer.names, config)
    vqvae = VQVAE(config, plan(config, found, 10_000))
    vqvae.initialise(standardized)
    grid = (GRID, GRID)
    return Tokenizer(features, standardizer, found, vqvae, frames=frames, channels=1, grid=grid)


def alignment(timesteps: int, window: int, samples: int) -> tuple[Callable[[], None], int]:
    """L_commit and L_latent with their backward down to the window's frames and taps."""
    seen = tokenizer(timesteps + 1)
    projector = LatentProjector(UAFNOConfig().bottleneck_channels, seen.latent_dim)
    early = torch.randn(BATCH, timesteps + 1 - window, 1, GRID, GRID)
    late = torch.randn(BATCH, window, 1, GRID, GRID, requires_grad=True)
    taps = torch.randn(BATCH, samples, UAFNOConfig().bottleneck_channels, requires_grad=True)

    def run() -> None:
        found = seen(torch.cat([early, late], 1))
        commit = (found.latents - found.quantized.detach()).square().mean()
        latent = (projector(taps).mean(1) - found.latents.detach()).square().mean()
        (0.5 * commit + 0.1 * latent).backward()

    return run, len(seen.standardizer.names)


def file_of(directory: Path, frames: int, operators: int = 8) -> Path:
    """Cheap ground truth in the layout that `spinlock generate` writes."""
    path = directory / "truth.h5"
    axis = {"kind": "integer"}
    cheap = {
        "kind": "cno",
        "num_layers": {**axis, "low": 2, "high": 2},
        "base_channels": {**axis, "low": 4, "high": 4},
        "kernel_size": {"kind": "choice", "values": [3]},
    }
    document = {"operators": operators, "seed": 0, "grid": GRID, "frames": frames, "domain": cheap}
    generate(GenerateConfig.model_validate(document), path)
    return path


def reading(timesteps: int, window: int, rounds: int) -> float:
    """CPU seconds to read a batch's initial fields and windows from the file."""
    with tempfile.TemporaryDirectory() as directory:
        dataset = open_dataset(file_of(Path(directory), timesteps + 1))
        frames, items = slice(timesteps + 1 - window, timesteps + 1), list(range(BATCH))
        return median(lambda: (dataset.initial(items), dataset.trajectories(items, frames)), rounds)


def replay(operators: int, steps: int) -> float:
    """CPU seconds of a step of one CNO operator, each alone, mean over the default family."""
    domain = CNOConfig(limit=1e30).build()
    seeds = operator_seeds(0, range(operators))
    unit, initial = domain.sample(operators, 0), domain.initial(seeds, GRID)
    spent = [
        seconds(
            lambda i=i: domain.rollout(
                unit[i : i + 1], seeds[i : i + 1], initial[i : i + 1], steps + 1
            )
        )
        for i in range(operators)
    ]
    return statistics.mean(spent) / steps


def gradient(
    batch: int, timesteps: int, window: int, *, autocast: bool = False, **options: object
) -> tuple[float, Tensor, Tensor]:
    """CPU seconds of a rollout forward and backward, its gradient, and its last frame."""
    model, initial, theta = network(batch)
    compute = ComputeConfig.model_validate(options)
    begun = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rolled = rollout(model, initial, theta, timesteps=timesteps, window=window, compute=compute)
    target = torch.randn(rolled.supervised.shape, generator=torch.Generator().manual_seed(1))
    (rolled.supervised.float() - target).square().mean().backward()
    spent = time.process_time() - begun
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return spent, torch.cat(parts), rolled.frames[:, -1].detach().float()


def reduced_precision(batch: int, window: int) -> list[str]:
    """Relative error of the gradient and the last frame against single precision, and time."""
    rows = [
        "| | steps without, with gradient | error of the gradient | of the last frame | CPU s |",
        "|---|---|---|---|---|",
    ]
    exact = {t: gradient(batch, t, window) for t in (window, 2 * window)}
    cases = (
        ("single precision", 2 * window, {}),
        ("`bf16: warm_up`", 2 * window, {"bf16": "warm_up"}),
        ("`bf16: throughout`", window, {"bf16": "throughout"}),
        ("autocast around everything", window, {"autocast": True}),
    )
    for name, timesteps, options in cases:
        spent, found, frame = gradient(batch, timesteps, window, **options)
        _, expected, expected_frame = exact[timesteps]
        off = float((found - expected).norm() / expected.norm())
        off_frame = float((frame - expected_frame).norm() / expected_frame.norm())
        rows.append(
            f"| {name} | {timesteps - window}, {window} | {off:.1%} | {off_frame:.2%} | "
            f"{spent:.1f} |"
        )
    return rows


def compiled(window: int) -> str:
    """What compiling a step with gradient costs once and brings in each step."""
    model, initial, theta = network()

    def run() -> None:
        rolled = rollout(model, initial, theta, timesteps=window, window=window)
        rolled.supervised.square().mean().backward()
        model.zero_grad()

    eager = median(run, 2) / window
    model.compile()
    begun = time.perf_counter()
    first = seconds(run)
    wall = time.perf_counter() - begun
    then = median(run, 2) / window
    return (
        f"`use_torch_compile`, steps with gradient only: the first {window} take {first:.0f} CPU s "
        f"({wall:.0f} s by the clock, compilers in processes of their own included), then "
        f"{then:.2f} CPU s a step; {eager:.2f} without."
    )
