"""What a training step of the NOA costs, beside the research prototype's network.

    python benchmarks/noa.py [--rounds 3] [--window 2] [--compile]

One thread; all variants once in every round of one run; medians of CPU seconds. Outputs from
equal weights are compared first. Writes benchmarks/results/noa.md.
"""

import argparse
import os
import platform
from pathlib import Path

import torch
from noa_parts import (
    BATCH,
    GRID,
    PARAMETERS,
    alignment,
    compiled,
    median,
    reading,
    reduced_precision,
    replay,
)
from noa_steps import Times, equal_outputs, times

from spinlock.artifact import provenance

RESULT = Path(__file__).resolve().parent / "results" / "noa.md"
TIMESTEPS, WINDOW, LATENT = 256, 32, 8
# CPU s of the prototype's ground truth for a batch, over those of its steps (on another machine).
REPLAY = 155 / 302


def step_table(found: Times) -> list[str]:
    def row(what: str, ours: float, plain: float) -> str:
        return f"| {what} | {ours:.2f} | {plain:.2f} | {plain / ours:.1f} |"

    update = [found[name, "AdamW"] / WINDOW for name in ("spinlock", "prototype")]
    ours, plain = (found[name, "supervised"] for name in ("spinlock", "prototype"))
    return [
        "| CPU s a step | spinlock | prototype's network | times |",
        "|---|---|---|---|",
        row("without gradient", found["spinlock", "forward"], found["prototype", "forward"]),
        row("supervised: forward and backward", ours, plain),
        row(f"the same and 1/{WINDOW} of AdamW's update", ours + update[0], plain + update[1]),
        row("supervised, both checkpointed", found["spinlock", "checkpointed"], plain),
        row("supervised, neither checkpointed", ours, found["prototype", "not checkpointed"]),
    ]


def batch_table(found: Times, seen_again: float, parts: dict[str, float]) -> list[str]:
    """A whole batch, put together from the times of its parts."""

    def both(what: str) -> tuple[float, float]:
        return found["spinlock", what], found["prototype", what]

    rows: list[tuple[str, float, float]] = []

    def add(name: str, ours: float, plain: float) -> None:
        rows.append((name, ours, plain))

    def total(name: str) -> None:
        kept = [row for row in rows if not row[0].startswith("**")]
        add(f"**{name}**", sum(row[1] for row in kept), sum(row[2] for row in kept))

    warm_up = TIMESTEPS - WINDOW
    add(f"{warm_up} steps without gradient", *(warm_up * each for each in both("forward")))
    add(f"{WINDOW} supervised steps", *(WINDOW * each for each in both("supervised")))
    add("AdamW", *both("AdamW"))
    total("on states, ground truth given")
    add("ground truth: read, replayed", parts["read"], parts["replay"] * BATCH * TIMESTEPS)
    total("on states, with ground truth")
    states = rows[3]
    replayed = states[2] * (1 + REPLAY)
    add("**the same, its replay by its own share**", states[1] + parts["read"], replayed)
    add(f"L_latent's {LATENT} states: tapped, seen again", 0.0, LATENT * seen_again)
    add("features and tokenizer, taken as equal", parts["aligned"], parts["aligned"])
    total("with all three losses")
    return [
        f"| CPU s, T={TIMESTEPS}, window {WINDOW}, B={BATCH} | spinlock | prototype | times |",
        "|---|---|---|---|",
        *(
            f"| {name} | {ours:.3g} | {plain:.3g} | {f'{plain / ours:.3g}' if ours else ''} |"
            for name, ours, plain in rows
        ),
    ]


def losses_table(step: Times, rounds: int) -> tuple[list[str], float]:
    """L_commit and L_latent against the whole step on states; the seconds for TIMESTEPS."""
    rows = [
        f"| timesteps, window | on states | L_commit and L_latent at {LATENT} | more |",
        "|---|---|---|---|",
    ]
    spent = 0.0
    for timesteps in (WINDOW, 64, TIMESTEPS):
        run, features = alignment(timesteps, WINDOW, LATENT)
        spent = median(run, rounds)
        alone = (
            (timesteps - WINDOW) * step["spinlock", "forward"]
            + WINDOW * step["spinlock", "supervised"]
            + step["spinlock", "AdamW"]
        )
        rows.append(f"| {timesteps}, {WINDOW} | {alone:.1f} | {spent:.2f} | {spent / alone:.1%} |")
    return [*rows, "", f"CPU s; {features} features."], spent


def reading_line(read: float, step: Times) -> str:
    alone = WINDOW * step["spinlock", "supervised"]
    return (
        f"Ground truth of a batch, the initial fields and the last {WINDOW} of {TIMESTEPS + 1} "
        f"frames, read from the file that `spinlock generate` writes: {1e3 * read:.1f} ms, "
        f"{read / alone:.3%} of {WINDOW} supervised steps. A run keeps up to 2 GiB of windows in "
        "memory and reads them once."
    )


def heading(window: int, rounds: int) -> list[str]:
    facts = provenance()
    cpu = next(
        line.split(": ")[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    reduced = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [
        "# A training step of the NOA",
        "",
        f"Made by `python benchmarks/noa.py`, commit {facts['commit']}, {facts['created'][:10]}.",
        f"Machine: {cpu}, {torch.backends.cpu.get_cpu_capability()}, bfloat16 "
        f"{'by its units' if reduced else 'emulated: it has no units for it'}, one thread of "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.0f}; Python "
        f"{platform.python_version()}, torch {facts['versions']['torch']}.",
        f"Default architecture, {GRID}x{GRID}, one channel, {PARAMETERS} operator parameters, "
        f"batch {BATCH}, single precision. CPU seconds, medians of {rounds} interleaved rounds. "
        f"Steps are timed in windows of {window}, to fit many rounds in one run, and given per "
        "step.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, window = options.rounds, options.window
    lines = heading(window, rounds)

    def section(title: str, *paragraphs: str) -> None:
        lines.extend([f"## {title}", "", *paragraphs, ""])
        print("\n".join(lines[-len(paragraphs) - 3 :]), flush=True)
        RESULT.write_text("\n".join(lines).rstrip() + "\n")

    section("Equal outputs", EQUAL, "", *equal_outputs())
    step = times(window, rounds)
    section("A step", STEP, "", *step_table(step))
    losses, aligned = losses_table(step, rounds)
    section("The losses of alignment", *losses)
    parts = {
        "aligned": aligned,
        "read": reading(TIMESTEPS, WINDOW, rounds),
        "replay": replay(16, 4),
    }
    section("Ground truth", reading_line(parts["read"], step))
    once = step["prototype", "one state more"] - step["prototype", "supervised"]
    section("A batch", WHOLE, "", *batch_table(step, once * window, parts))
    section("bfloat16", REDUCED, "", *reduced_precision(1, 4))
    if options.compile:
        section("Compilation", compiled(2))


EQUAL = (
    "From equal weights, the prototype's network with our normalization (8 groups; its own, of "
    "each channel alone, costs the same). On the 8x8 bottleneck its 16x16 modes are those that "
    "ours keeps."
)
STEP = (
    "The prototype's network: 144.7 M parameters, joins its complex weights in each call, "
    "checkpoints each supervised step, knows no operator parameters. Ours: 31.7 M, conditioned."
)
WHOLE = (
    "Put together from the parts above. Ground truth: the prototype replays it for each batch; "
    "stands in for it our own CNO, one operator at a time, the mean of 16 of the default family. "
    "Beside it, its replay as long as it was measured to be with its own code on another machine: "
    f"{REPLAY:.2f} of the steps of its batch. "
    "Features and tokenizer are ours on both sides, so that ratio is a lower bound."
)
REDUCED = (
    "Against single precision, one sample, freshly initialized: error of the whole gradient in "
    "relative norm, and of the last frame."
)


if __name__ == "__main__":
    main()
