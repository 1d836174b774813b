"""A VQ-VAE of the research prototype, loaded here, against the prototype's own outputs.

    python benchmarks/parity.py DIRECTORY

DIRECTORY holds best_model.pt and vqvae_parity.npz. Writes benchmarks/results/parity.md.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinlock.artifact import provenance
from spinlock.vqvae.foreign import load_prototype

RESULT = Path(__file__).resolve().parent / "results" / "parity.md"


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    vqvae = load_prototype(directory / "best_model.pt").vqvae
    with np.load(directory / "vqvae_parity.npz") as arrays:
        theirs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    latents = vqvae.encode(theirs["features"])
    quantized = vqvae.quantize(latents)
    fields = theirs["initial_fields"]
    ours: dict[str, Tensor] = {
        "latents": torch.cat(latents, 1),
        "quantized": torch.cat(list(quantized.vectors), 1),
        "tokens": quantized.codes,
        "reconstruction": vqvae.decode(quantized.vectors),
        "initial_embedding": vqvae.initial_embedding(
            theirs["manual_initial"][: len(fields)], fields
        ),
    }
    facts = provenance()
    rows = [
        "# The prototype's tokenizer, loaded here",
        "",
        f"Made by `python benchmarks/parity.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}; torch {facts['versions']['torch']} on a CPU, one thread.",
        f"{len(theirs['features'])} items of {theirs['features'].shape[1]} features, "
        f"{theirs['tokens'].shape[1]} codebooks; the prototype's own code computed the other side.",
        "",
        "| output | shape | differing | largest difference | largest value |",
        "|---|---|---|---|---|",
    ]
    for name, found in ours.items():
        wanted = theirs[name]
        off = (found.double() - wanted.double()).abs()
        shape = "x".join(map(str, wanted.shape))
        rows.append(
            f"| {name} | {shape} | {int((off > 0).sum())} | {off.max():.1e} | "
            f"{wanted.double().abs().max():.3g} |"
        )
    error = float((ours["reconstruction"] - theirs["features"]).square().mean())
    rows += ["", f"Mean squared error of the reconstruction to the features: {error:.4f}."]
    RESULT.write_text("\n".join([*rows, ""]))
    print(RESULT.read_text())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
