"""Operators of one architecture together or each alone: python benchmarks/cno.py

One step of G operators of M realizations, on one thread, computed in four ways:

    alone       each by a `Network` of its own, as spinlock.domains.cno does with large ones
    grouped     one grouped convolution per layer over all operators, activations contiguous
    grouped-cl  the same, weights and activations channels last
    together    all by one `Network`, as spinlock.domains.cno does with small ones: a convolution
                per operator, normalization and activation of all at once

The noise of an operator is a function of its own seed and drawn for each in all four. For each
way: the time, and whether the bits are those of an operator alone and those of groups of other
sizes. Replay needs the second: an operator must not know how many others share its batch.
Then, how many operators of a batch share an architecture at all. Writes results/cno.md.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spinlock.artifact import provenance
from spinlock.config import load
from spinlock.data.generate import GenerateConfig
from spinlock.domains import cno
from spinlock.domains.base import operator_seeds
from spinlock.domains.cno import TOGETHER_ACTIVATIONS, CNOConfig
from spinlock.domains.cno_network import ConvBlock, Design, Member, Network, Noise

ROOT = Path(__file__).resolve().parents[1]
GRIDS, WIDTHS, REALIZATIONS, GROUPS = (8, 12, 16, 32, 64), (8, 16, 20, 32, 48), (1, 3), (1, 4, 8)
SIZES = (1, 2, 3, 4, 8)  # of groups whose bits are compared
ROUNDS, SECONDS = (5, 31), 0.4  # at least and at most; what a way should take if between
LAST = torch.channels_last
ARCHITECTURE = ("num_layers", "base_channels", "kernel_size", "activation", "normalization")

Step = Callable[[Float[Tensor, "G M C H W"]], Float[Tensor, "G M C H W"]]


def alone(design: Design, members: Sequence[Member], grid: int) -> Step:
    networks = singles(design, members, grid)
    return lambda states: torch.stack([n(x, 0) for n, x in zip(networks, states, strict=True)])


def together(design: Design, members: Sequence[Member], grid: int) -> Step:
    network = Network(design, members, grid, grid)
    return lambda states: network(states.flatten(0, 1), 0).unflatten(0, (len(members), -1))


def grouped(
    design: Design, members: Sequence[Member], grid: int, memory_format: torch.memory_format
) -> Step:
    networks, count = singles(design, members, grid), len(members)
    depths = [[layer(n, depth) for n in networks] for depth in range(len(networks[0].blocks))]
    kernels = [
        stored(torch.cat([convolution(b.convolution).weight for b in blocks]), memory_format)
        for blocks in depths
    ]
    outputs = [convolution(n.output) for n in networks]
    output = stored(torch.cat([o.weight for o in outputs]), memory_format)
    bias = torch.cat([o.bias for o in outputs if o.bias is not None])

    def step(states: Float[Tensor, "G M C H W"]) -> Float[Tensor, "G M C H W"]:
        x = stored(states.transpose(0, 1).flatten(1, 2), memory_format)
        for kernel, blocks in zip(kernels, depths, strict=True):
            x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=count)
            x = finished(blocks[0], x, count)
        pairs = zip(networks, x.unflatten(1, (count, -1)).unbind(1), strict=True)
        noisy = torch.cat([n.stochastic(part, 0) for n, part in pairs], 1)
        y = F.conv2d(noisy, output, bias, groups=count)
        return y.unflatten(1, (count, -1)).transpose(0, 1)

    return step


def singles(design: Design, members: Sequence[Member], grid: int) -> list[Network]:
    return [Network(design, [member], grid, grid) for member in members]


def convolution(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


def finished(block: ConvBlock, y: Tensor, operators: int) -> Tensor:
    """`y` normalized and activated as `block` does it; `operators` stand side by side in it."""
    assert block.groups is not None
    return block.activation(torch.group_norm(y, operators * block.groups))


def layer(network: Network, depth: int) -> ConvBlock:
    block = network.blocks[depth]
    assert isinstance(block, ConvBlock)
    return block


def stored(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A copy of `x` whose strides say the layout even where it has one channel."""
    if memory_format == LAST:
        return x.to(memory_format=LAST)
    return torch.empty(x.shape).copy_(x)


WAYS: dict[str, Callable[[Design, Sequence[Member], int], Step]] = {
    "alone": alone,
    "grouped": partial(grouped, memory_format=torch.contiguous_format),
    "grouped-cl": partial(grouped, memory_format=LAST),
    "together": together,
}


@dataclass(frozen=True)
class Row:
    """One shape: milliseconds per operator and step of each way, and what its bits equal."""

    grid: int
    width: int
    realizations: int
    group: int
    milliseconds: dict[str, float]
    like_alone: dict[str, bool]
    like_other_sizes: dict[str, bool]

    @property
    def few(self) -> bool:
        """Whether spinlock.domains.cno computes such operators together."""
        return cno.together(self.realizations, self.width, self.grid**2)

    def ratio(self, way: str) -> float:
        return self.milliseconds[way] / self.milliseconds["alone"]


@torch.no_grad()
def measure(grid: int, width: int, realizations: int) -> list[Row]:
    """Rows of all groups of one shape, their ways interleaved round by round."""
    design = Design(1, 3, width, 3, "gelu", "instance", "zeros")
    noise = Noise(0.01, "additive", 0.1, "constant", 64, 16)
    seeds = operator_seeds(0, range(max(GROUPS))).tolist()
    members = [Member(noise, seed) for seed in seeds]
    states = torch.randn(
        (len(members), realizations, 1, grid, grid), generator=torch.Generator().manual_seed(0)
    )
    seen = {
        (way, size): split(WAYS[way], design, members, states, size)
        for way in WAYS
        for size in SIZES
    }
    steps = {
        (way, size): WAYS[way](design, members[:size], grid) for way in WAYS for size in GROUPS
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    begun, rounds = time.process_time(), 0
    while rounds < ROUNDS[0] or (
        rounds < ROUNDS[1] and time.process_time() - begun < SECONDS * len(steps)
    ):
        for (way, size), step in steps.items():
            start = time.process_time()
            step(states[:size])
            times[way, size].append((time.process_time() - start) / size)
        rounds += 1
    reference = seen["alone", 1]
    return [
        Row(
            grid,
            width,
            realizations,
            size,
            {way: 1e3 * statistics.median(times[way, size]) for way in WAYS},
            {way: torch.equal(seen[way, size], reference) for way in WAYS},
            {way: all(torch.equal(seen[way, size], seen[way, o]) for o in SIZES) for way in WAYS},
        )
        for size in GROUPS
    ]


def split(
    way: Callable[[Design, Sequence[Member], int], Step],
    design: Design,
    members: Sequence[Member],
    states: Float[Tensor, "G M C H W"],
    size: int,
) -> Float[Tensor, "G M C H W"]:
    """One step of all operators in groups of `size`, the last smaller if need be."""
    parts = [slice(i, i + size) for i in range(0, len(members), size)]
    return torch.cat([way(design, members[p], states.shape[-1])(states[p]) for p in parts])


def companions(config: GenerateConfig, batch: int) -> float:
    """Mean over operators: how many of the same architecture their batch holds, with themselves."""
    domain = config.domain.build()
    physical = domain.physical(domain.sample(config.operators, config.seed))
    kinds = [tuple(each[name] for name in ARCHITECTURE if name in each) for each in physical]
    total = 0
    for start in range(0, len(kinds), batch):
        total += sum(count**2 for count in Counter(kinds[start : start + batch]).values())
    return total / len(kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cno.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for shape in itertools.product(GRIDS, WIDTHS, REALIZATIONS):
        rows += measure(*shape)
        for row in rows[-len(GROUPS) :]:
            print(line(row), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report(rows))


def report(rows: Sequence[Row]) -> str:
    facts = provenance()
    wide = "AVX-512" if "avx512f" in Path("/proc/cpuinfo").read_text() else "no AVX-512"
    parts = [
        "# CNO operators: alone, or those of one architecture together\n",
        f"Made by `python benchmarks/cno.py`, commit {facts['commit']}, {facts['created'][:10]}.",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, {wide} (torch uses "
        f"{torch.backends.cpu.get_cpu_capability()}), load average {os.getloadavg()[2]:.0f} from "
        f"other work; torch {facts['versions']['torch']}, one thread.\n",
        "CPU milliseconds per operator and step, median of interleaved rounds; in brackets the "
        "ratio to alone (below 1: faster). 3 layers, 3x3 kernels, instance norm, GELU; the noise "
        "is included. G operators of M realizations. **a**: the bits are those of the operator "
        f"alone; **s**: the bits are the same in groups of {', '.join(map(str, SIZES[:-1]))} "
        f"and {SIZES[-1]}.\n",
        "| grid | width | M | G | " + " | ".join(WAYS) + " |",
        "|---" * (4 + len(WAYS)) + "|",
        *map(line, rows),
        "\n## Where together is faster\n",
        "Geometric mean of the ratios to alone, over widths and M, and in how many of these shapes "
        "the bits do not depend on the size of the group. Few: at most "
        f"{TOGETHER_ACTIVATIONS:,} activations, M x width x cells, on a grid of full vectors; such "
        "operators are computed together.\n",
        "| grid | activations | G | " + " | ".join(list(WAYS)[1:]) + " |",
        "|---" * (2 + len(WAYS)) + "|",
        *itertools.starmap(mean_line, means(rows)),
        "\n## How many operators share an architecture\n",
        "Mean number of operators of the same architecture in an operator's batch, itself "
        "included. Batching gains nothing for the first of them.\n",
        "| family | operators | batch of 8 | of 64 | of 512 | all |",
        "|---|---|---|---|---|---|",
    ]
    shipped = load(GenerateConfig, ROOT / "launch" / "default" / "dataset.yaml")
    for name, config in (
        ("CNOConfig's defaults", GenerateConfig(domain=CNOConfig(), operators=4096)),
        ("launch/default/dataset.yaml", shipped),
    ):
        sizes = [companions(config, batch) for batch in (8, 64, 512, config.operators)]
        parts.append(f"| {name} | {config.operators} | " + " | ".join(f"{s:.2f}" for s in sizes))
        parts[-1] += " |"
    return "\n".join(parts) + "\n"


def line(row: Row) -> str:
    cells = [f"{row.milliseconds[way]:.2f} ({row.ratio(way):.2f}){bits(row, way)}" for way in WAYS]
    shape = (row.grid, row.width, row.realizations, row.group)
    return f"| {' | '.join(map(str, shape))} | {' | '.join(cells)} |"


def bits(row: Row, way: str) -> str:
    marks = "a" * row.like_alone[way] + "s" * row.like_other_sizes[way]
    return f" {marks}" if marks else ""


def means(rows: Sequence[Row]) -> list[tuple[int, bool, int, list[Row]]]:
    kinds = itertools.product(GRIDS, (True, False), GROUPS)
    alike = [(*kind, [r for r in rows if (r.grid, r.few, r.group) == kind]) for kind in kinds]
    return [each for each in alike if each[-1]]


def mean_line(grid: int, few: bool, group: int, rows: list[Row]) -> str:
    cells = []
    for way in list(WAYS)[1:]:
        ratio = statistics.geometric_mean(row.ratio(way) for row in rows)
        exact = sum(row.like_other_sizes[way] for row in rows)
        cells.append(f"{ratio:.2f}, {exact}/{len(rows)}")
    return f"| {grid} | {'few' if few else 'many'} | {group} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
