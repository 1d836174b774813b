"""Peak memory of a training step by micro-batch, window and latent steps, each in a new process.

    python benchmarks/noa_memory.py MICRO_BATCH WINDOW LATENT_STEPS CHECKPOINTED

prints the bytes of one: forward, all terms, backward and AdamW's update of the default
architecture on 64x64. With 0 latent steps there is no tokenizer. `table` runs it for each.
"""

import subprocess
import sys
from pathlib import Path

import torch
from noa_parts import GRID, network, tokenizer

from spinlock.noa import ComputeConfig, LatentProjector, rollout, sampled_steps
from spinlock.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
CASES = [
    *((1, window, 3, False) for window in (4, 8, 16, 32)),
    *((2, window, 3, False) for window in (4, 8)),
    *((4, window, 3, False) for window in (4, 8)),
    *((4, 8, latent, False) for latent in (0, 8)),
    *((batch, window, 3, True) for batch, window in ((1, 8), (1, 16), (4, 8))),
]


def peak(batch: int, window: int, latent_steps: int, checkpointed: bool) -> int:
    torch.set_num_threads(1)
    model, initial, theta = network(batch)
    modules = torch.nn.ModuleDict({"uafno": model})
    tapped: tuple[int, ...] = ()
    if latent_steps:
        seen = tokenizer(window + 1)
        modules["projector"] = LatentProjector(256, seen.latent_dim)
        tapped = sampled_steps(latent_steps, window)
    optimizer = torch.optim.AdamW(modules.parameters())
    target = torch.randn(batch, window, 1, GRID, GRID)
    reset_peak(CPU)
    rolled = rollout(
        model,
        initial,
        theta,
        timesteps=window,
        window=window,
        tapped=tapped,
        compute=ComputeConfig(checkpoint_steps=checkpointed),
    )
    loss = (rolled.supervised - target).square().mean()
    if rolled.taps is not None:
        found = seen(rolled.frames)
        loss = loss + (found.latents - found.quantized.detach()).square().mean()
        projected = modules["projector"](rolled.taps).mean(1)
        loss = loss + (projected - found.latents.detach()).square().mean()
    loss.backward()
    optimizer.step()
    return peak_bytes(CPU)


def table() -> list[str]:
    rows = [
        "| micro-batch | window | latent steps | checkpointed | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        words = [sys.executable, str(Path(__file__).resolve()), *(str(int(x)) for x in case)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        batch, window, latent, checkpointed = case
        kind = "yes" if checkpointed else "no"
        mebibytes = int(done.stdout) / 2**20
        rows.append(f"| {batch} | {window} | {latent} | {kind} | {mebibytes:,.0f} |")
    return rows


if __name__ == "__main__":
    batch, window, latent_steps, checkpointed = map(int, sys.argv[1:])
    print(peak(batch, window, latent_steps, bool(checkpointed)))
