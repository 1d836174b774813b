"""What a training step of the tokenizer costs, beside the same model in plain loops.

    python benchmarks/vqvae.py [--rounds 15] [--compile]

One thread, all variants a step each in every round of one run; medians of CPU seconds and walls.
The variants' losses are compared first. Writes benchmarks/results/vqvae_step.md.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain_vqvae import (
    PlainCodebook,
    PlainVQVAE,
    PublishedCodebook,
    Seen,
    prototype_topography,
    topography,
)
from torch import Tensor
from vqvae_parts import Terms, Variant, floor, parts, peak_bytes, throughput

from spinlock.artifact import provenance
from spinlock.vqvae import TERMS, VQVAE, Layout, VQVAEConfig, plan, predict
from spinlock.vqvae.categories import Categories

BATCH, ROUNDS = 1024, 15
LAYOUTS = {
    "uneven": (60, 40, 30, 20, 15, 12, 10, 7, 3, 3),
    "even": (20,) * 10,
}
NAMES = {
    "a": "(a) spinlock",
    "b": "(b) plain loop, the same losses",
    "b'": "(b') plain loop, the prototype's topographic distances",
    "c": "(c) plain loop, vector-quantize-pytorch codebooks",
}
ANSWER = """\
## What was asked for

At least 2.5 times as fast as the prototype's step. The prototype's is (b'): a loop over codebooks,
whose topographic loss averages a distance matrix of every codebook. Ours takes the distances of
all latents side by side, which is another number and one Gram matrix a side; (b) is the plain loop
with that. So the factor against (b') is what a user gains, the one against (b) what batching
alone brings at equal losses, and the rest is the cheaper definition. With 64 topographic samples
that loss costs little in any form.

What (a) spends above its floor: the products run on padded groups, and at these sizes at less than
the throughput of a large one; the passes between them (activation, dropout, normalization) are
bound by memory."""
RESULT = Path(__file__).resolve().parent / "results" / "vqvae_step.md"


def layout(widths: tuple[int, ...], config: VQVAEConfig) -> Layout:
    order = torch.randperm(sum(widths), generator=torch.Generator().manual_seed(0))
    groups = tuple(tuple(part.tolist()) for part in order.split(list(widths)))
    found = Categories(groups=groups, silhouette=None, orthogonality=0, orthogonality_target=0.25)
    return plan(config, found, 50_000)


def features() -> Tensor:
    """Four batches of 200 standardized features with twelve common causes."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(4 * BATCH, 12, generator=generator)
    x = causes @ torch.randn(12, 200, generator=generator) / 12**0.5
    x += 0.3 * torch.randn(4 * BATCH, 200, generator=generator)
    return (x - x.mean(0)) / x.std(0)


def variants(widths: tuple[int, ...], config: VQVAEConfig, x: Tensor) -> dict[str, Variant]:
    """All of NAMES with equal weights; the library's codebooks keep their own start."""
    torch.manual_seed(0)
    ours = VQVAE(config, layout(widths, config)).to(x.dtype)
    ours.initialise(x)

    def spinlock(batch: Tensor) -> Terms:
        prediction = predict(ours, batch)
        return {name: term(prediction) for name, term in TERMS.items()}

    found = {"a": Variant(ours, spinlock)}
    for name, codebook, distances in (
        ("b", PlainCodebook, topography),
        ("b'", PlainCodebook, prototype_topography),
        ("c", PublishedCodebook, topography),
    ):
        plain = PlainVQVAE(config, ours.layout, codebook).to(x.dtype)
        if codebook is PlainCodebook:
            plain.take(ours)
        found[name] = Variant(plain, plain_terms(plain, distances))
    return found


def plain_terms(
    model: PlainVQVAE, distances: Callable[[Seen, int], Tensor]
) -> Callable[[Tensor], Terms]:
    return lambda batch: model.terms(model(batch), distances)


def equal_losses(x: Tensor) -> list[str]:
    """(a) against (b) from equal weights, without dropout: each term's largest difference."""
    rows = ["| | " + " | ".join(TERMS) + " |", "|---" * (len(TERMS) + 1) + "|"]
    for dtype, steps in ((torch.float32, 1), (torch.float64, 5)):
        data = x.to(dtype)
        found = variants(LAYOUTS["uneven"], VQVAEConfig(dropout=0.0), data)
        worst = dict.fromkeys(TERMS, 0.0)
        for step in range(steps):
            batch = data[step % 4 * BATCH :][:BATCH]
            ours, plain, older = (found[name].step(batch) for name in ("a", "b", "b'"))
            for name in TERMS:
                worst[name] = max(worst[name], abs(ours[name].item() - plain[name].item()))
        cells = " | ".join(f"{worst[name]:.0e}" for name in TERMS)
        rows.append(f"| {str(dtype)[6:]}, {steps} update{'s'[: steps - 1]} | {cells} |")
        if steps == 1:
            defined = (
                f"Before the first update the topographic loss is {ours['topography']:.4f} by (a) "
                f"and (b), and {older['topography']:.4f} by (b'), which defines it otherwise."
            )
    return [*rows, "", defined]


def times(widths: tuple[int, ...], samples: int, x: Tensor, rounds: int) -> dict[str, Variant]:
    found = variants(widths, VQVAEConfig(topo_samples=samples), x)
    for turn in range(rounds + 2):
        for variant in found.values():
            variant.timed(x[turn % 4 * BATCH :][:BATCH])
    for variant in found.values():  # the first two rounds warm up
        variant.cpu, variant.wall = variant.cpu[2:], variant.wall[2:]
    return found


def table(found: dict[str, Variant]) -> list[str]:
    rows = [
        "| | CPU s | wall s | times (a) | (b') is so many times this |",
        "|---|---|---|---|---|",
    ]
    reference = {name: statistics.median(variant.cpu) for name, variant in found.items()}
    for name, variant in found.items():
        cpu, slow = reference[name], reference["b'"]
        rows.append(
            f"| {NAMES[name]} | {cpu:.3f} | {statistics.median(variant.wall):.3f} "
            f"| {cpu / reference['a']:.2f} | {slow / cpu:.2f} |"
        )
    return rows


def parts_table(found: dict[str, Variant], batch: Tensor, rounds: int) -> list[str]:
    """CPU milliseconds of each part, and what the topographic losses hold in memory."""
    runs = {name: parts(found[name], batch) for name in ("a", "b")}
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, each in runs.items():
            for part, run in each.items():
                for parameter in found[name].model.parameters():
                    known = part.startswith("AdamW")  # otherwise nothing to accumulate into
                    parameter.grad = torch.full_like(parameter, 1e-3) if known else None
                begun = time.process_time()
                run()
                spent.setdefault((name, part), []).append(time.process_time() - begun)
    rows = ["| part, forward and backward | (a) ms | (b) ms |", "|---|---|---|"]
    for part in runs["b"]:
        cells = [
            f"{1e3 * statistics.median(spent[name, part]):.0f}" if (name, part) in spent else ""
            for name in runs
        ]
        rows.append(f"| {part} | {' | '.join(cells)} |")
    matrix = 4 * found["a"].model.config.topo_samples ** 2
    held = [
        f"{label} {peak / 2**20:.0f} MiB ({peak / matrix:.1f} topo_samples^2 in single precision)"
        for label, peak in (
            ("(a)", peak_bytes(runs["a"]["topographic loss"])),
            ("(b)", peak_bytes(runs["b"]["topographic loss"])),
            ("(b')", peak_bytes(runs["b"]["the prototype's topographic loss"])),
        )
    ]
    return [
        *rows,
        "",
        f"Most held by the topographic loss, forward and backward: {', '.join(held)}. Of (a)'s, "
        "1.7 are distances, half of each square and a slab; the rest is the latents' copies and "
        "gradients.",
    ]


def compiled(x: Tensor, rounds: int) -> str:
    """What `torch.compile` of the networks, as the trainer does it, costs and brings."""
    config = VQVAEConfig()
    eager, quick = (variants(LAYOUTS["uneven"], config, x)["a"] for _ in range(2))
    model = quick.model
    assert isinstance(model, VQVAE)
    for part in (model.encoder, model.projector, model.decoder, model.partial_decoder):
        part.compile()
    begun = time.process_time()
    quick.step(x[:BATCH])
    first = time.process_time() - begun
    for turn in range(rounds):
        for variant in (eager, quick):
            variant.timed(x[turn % 4 * BATCH :][:BATCH])
    gained = statistics.median(eager.cpu) / statistics.median(quick.cpu)
    return (
        f"torch.compile of the networks: first step {first:.0f} CPU s, then {gained:.2f} times as "
        "fast."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, rounds = features(), options.rounds
    lines = [*heading(rounds), "## Equal losses", "", *equal_losses(x), ""]
    ceiling = [throughput(rounds)]
    for kind, widths in LAYOUTS.items():
        for samples in (1024, 64):
            found = times(widths, samples, x, rounds)
            lines += [f"## {kind.capitalize()} categories, topo_samples {samples}", ""]
            lines += [*table(found), ""]
            ceiling.append(throughput(rounds))
            if (kind, samples) == ("uneven", 1024):
                lines += [floor_line(found["a"], statistics.median(ceiling)), ""]
                lines += [*parts_table(found, x[:BATCH], rounds), ""]
    lines += [ANSWER, ""]
    if options.compile:
        lines += [compiled(x, rounds), ""]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text("\n".join(lines))
    print("\n".join(lines))


def heading(rounds: int) -> list[str]:
    facts = provenance()
    return [
        "# A training step of the tokenizer",
        "",
        f"Made by `python benchmarks/vqvae.py`, {rounds} rounds, commit {facts['commit']}, "
        f"{facts['created'][:10]}.",
        f"Machine: {cpu_name()}, one thread of {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.0f}; Python {platform.python_version()}, torch "
        f"{facts['versions']['torch']}.",
        f"Batch {BATCH}, 200 features in 10 categories ({', '.join(map(str, LAYOUTS['uneven']))}; "
        "even: 20 each), 3 levels, the default configuration. A step is the forward, all five "
        "terms, the backward, AdamW (fused, for all) and the codebooks' move.",
        "",
    ]


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def floor_line(ours: Variant, ceiling: float) -> str:
    assert isinstance(ours.model, VQVAE)
    least, measured = floor(ours.model, BATCH), statistics.median(ours.cpu)
    return (
        f"Floor: {least / 1e9:.1f} GFLOP of products, without padding and with half of each gram "
        f"matrix; at this machine's {ceiling / 1e9:.0f} GFLOP/s (sgemm of 1024^3, in the same run) "
        f"{least / ceiling:.3f} s. (a) takes {measured * ceiling / least:.1f} times that."
    )


if __name__ == "__main__":
    main()
