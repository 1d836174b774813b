"""Peak memory of a training step by micro-batch, window and latent steps, each in a new process.

    python benchmarks/noa_memory.py [MICRO_BATCH WINDOW LATENT_STEPS CHECKPOINTED]

One update of the default architecture on 64x64, timesteps = window: forward, the three losses,
backward, AdamW. With 0 latent steps there is no tokenizer. Prints the bytes of one case, or runs
all and writes benchmarks/results/noa_memory.md.
"""

import subprocess
import sys
from pathlib import Path

import torch
from noa_parts import GRID, network, tokenizer

from spinlock.artifact import provenance
from spinlock.noa import ComputeConfig, LatentProjector, rollout, sampled_steps
from spinlock.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
RESULT = Path(__file__).resolve().parent / "results" / "noa_memory.md"
CASES = [
    *((1, 4, latent, False) for latent in (0, 3)),
    *((batch, 4, 3, False) for batch in (2, 4)),
    (1, 8, 3, False),
    (1, 8, 8, False),
    (1, 8, 3, True),
    (2, 8, 3, False),
    (1, 16, 3, False),
    (1, 16, 3, True),
    (4, 8, 3, True),
    (4, 8, 3, False),
    (1, 32, 3, False),
]


def peak(
    batch: int, window: int, latent_steps: int, checkpointed: bool, device: torch.device = CPU
) -> int:
    """Most bytes of one update: allocated on a GPU, or resident on the host."""
    model, initial, theta = network(batch)
    modules = torch.nn.ModuleDict({"uafno": model})
    tapped: tuple[int, ...] = ()
    if latent_steps:
        seen = tokenizer(window + 1).to(device)
        modules["projector"] = LatentProjector(256, seen.latent_dim)
        tapped = sampled_steps(latent_steps, window)
    optimizer = torch.optim.AdamW(modules.to(device).parameters())
    target = torch.randn(batch, window, 1, GRID, GRID, device=device)
    reset_peak(device)
    rolled = rollout(
        model,
        initial.to(device),
        theta.to(device),
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
    return peak_bytes(device)


def table() -> None:
    facts = provenance()
    lines = [
        "# Peak memory of a NOA's update",
        "",
        f"Made by `python benchmarks/noa_memory.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}; torch {facts['versions']['torch']} on a CPU, one thread.",
        "Resident at the peak, torch and weights included, in a process of its own: forward, all "
        "three losses (0 latent steps: on states, no tokenizer), backward, AdamW. The default "
        "architecture on 64x64; timesteps = window.",
        "",
        "| micro-batch | window | latent steps | checkpointed | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        words = [sys.executable, str(Path(__file__).resolve()), *(str(int(x)) for x in case)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        batch, window, latent, checkpointed = case
        kind = "yes" if checkpointed else "no"
        mebibytes = int(done.stdout) / 2**20
        lines.append(f"| {batch} | {window} | {latent} | {kind} | {mebibytes:,.0f} |")
        print(lines[-1], flush=True)
        RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        table()
    else:
        torch.set_num_threads(1)
        batch, window, latent_steps, checkpointed = map(int, sys.argv[1:])
        print(peak(batch, window, latent_steps, bool(checkpointed)))
