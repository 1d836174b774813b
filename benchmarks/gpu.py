"""What a training step of the NOA costs and holds on a CUDA device, beside the prototype's network.

    python benchmarks/gpu.py

The default architecture on 64x64. All variants once in every round of one run; medians of
milliseconds by CUDA events. Writes benchmarks/results/gpu.md.
"""

import platform
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from noa_memory import peak
from noa_parts import GRID, PARAMETERS
from plain_uafno import PlainUAFNO, plain_rollout
from torch import Tensor, nn

from spinlock.artifact import provenance
from spinlock.noa import UAFNO, ComputeConfig, UAFNOConfig, rollout

CUDA = torch.device("cuda")
RESULT = Path(__file__).resolve().parent / "results" / "gpu.md"
WINDOW, ROUNDS = 4, 5
BATCHES = (4, 32)
MEMORY = [  # micro-batch, window, latent steps, checkpointed
    *((1, window, 3, False) for window in (4, 8, 16, 32)),
    (1, 32, 8, False),
    *((4, window, 3, False) for window in (8, 32)),
    *((batch, 32, 3, False) for batch in (2, 8, 16)),
    *((batch, 32, 3, True) for batch in (1, 4, 16, 32)),
]
Run = Callable[[], object]


def network(batch: int) -> tuple[UAFNO, Tensor, Tensor]:
    """The default architecture, initial fields and operator parameters, on the GPU."""
    torch.manual_seed(0)
    model = UAFNO(UAFNOConfig(), channels=1, grid=(GRID, GRID), parameters=PARAMETERS)
    fields, theta = torch.randn(batch, 1, GRID, GRID), torch.randn(batch, PARAMETERS)
    return model.to(CUDA), fields.to(CUDA), theta.to(CUDA)


def milliseconds(run: Run) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended)


def strict() -> AbstractContextManager[object]:
    """Convolutions in IEEE single precision; torch's own default on a GPU is TF32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)


def supervised(
    model: UAFNO, initial: Tensor, theta: Tensor, window: int, **options: object
) -> None:
    compute = ComputeConfig.model_validate(options)
    model.zero_grad()
    rolled = rollout(model, initial, theta, timesteps=window, window=window, compute=compute)
    rolled.supervised.square().mean().backward()


@torch.no_grad()
def forward(model: UAFNO, initial: Tensor, theta: Tensor, **options: object) -> None:
    compute = ComputeConfig.model_validate(options)
    rollout(model, initial, theta, timesteps=2 * WINDOW, window=WINDOW, compute=compute)


def plain_supervised(model: nn.Module, initial: Tensor) -> None:
    model.zero_grad()
    torch.stack(plain_rollout(model, initial, 0, WINDOW), 1).square().mean().backward()


@torch.no_grad()
def plain_forward(model: nn.Module, initial: Tensor) -> None:
    for _ in range(WINDOW):
        model(initial)


def steps(batch: int) -> list[str]:
    given = network(batch)
    plain = PlainUAFNO(UAFNOConfig()).to(CUDA)

    def strictly(run: Run) -> Run:
        def inside() -> None:
            with strict():
                run()

        return inside

    runs: dict[tuple[str, str], Run] = {
        ("single precision", "forward"): strictly(lambda: forward(*given)),
        ("single precision", "both"): strictly(lambda: supervised(*given, WINDOW)),
        ("TF32, torch's default", "forward"): lambda: forward(*given),
        ("TF32, torch's default", "both"): lambda: supervised(*given, WINDOW),
        ("the same, `checkpoint_steps`", "both"): lambda: supervised(
            *given, WINDOW, checkpoint_steps=True
        ),
        ("`bf16: warm_up`", "forward"): lambda: forward(*given, bf16="warm_up"),
        ("`bf16: throughout`", "both"): lambda: supervised(*given, WINDOW, bf16="throughout"),
        ("the prototype's network, TF32", "forward"): lambda: plain_forward(plain, given[1]),
        ("the prototype's network, TF32", "both"): lambda: plain_supervised(plain, given[1]),
    }
    spent: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 2):
        for name, run in runs.items():
            spent[name].append(milliseconds(run))

    def told(name: str, what: str) -> str:
        taken = 2 * WINDOW if what == "forward" and "prototype" not in name else WINDOW
        found = spent.get((name, what))
        return f"{statistics.median(found[2:]) / taken:.2f}" if found else ""

    names = dict.fromkeys(name for name, _ in runs)
    return [
        f"| batch {batch}, ms a step | without gradient | forward and backward |",
        "|---|---|---|",
        *(f"| {name} | {told(name, 'forward')} | {told(name, 'both')} |" for name in names),
        "",
    ]


def gradient(window: int, *, ieee: bool, **options: object) -> tuple[Tensor, Tensor]:
    """The whole gradient of a rollout from fresh weights, and its last frame."""
    model, initial, theta = network(4)
    autocast = bool(options.pop("autocast", False))
    compute = ComputeConfig.model_validate(options)
    with strict() if ieee else nullcontext():
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            rolled = rollout(
                model, initial, theta, timesteps=2 * window, window=window, compute=compute
            )
        like = rolled.supervised
        target = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)).to(CUDA)
        (like.float() - target).square().mean().backward()
    parts = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return torch.cat(parts), rolled.frames[:, -1].detach().float()


def precision() -> list[str]:
    exact, frame = gradient(WINDOW, ieee=True)
    rows = [
        f"Against IEEE single precision, {WINDOW} steps without and {WINDOW} with gradient:",
        "",
        "| | error of the whole gradient | of the last frame |",
        "|---|---|---|",
    ]
    for name, options in (
        ("TF32, torch's default", {}),
        ("`bf16: warm_up`", {"bf16": "warm_up"}),
        ("`bf16: throughout`", {"bf16": "throughout"}),
        ("autocast around everything", {"autocast": True}),
    ):
        found, last = gradient(WINDOW, ieee=False, **options)
        off = float((found - exact).norm() / exact.norm())
        off_frame = float((last - frame).norm() / frame.norm())
        rows.append(f"| {name} | {off:.2%} | {off_frame:.3%} |")
    return [*rows, ""]


def memory() -> list[str]:
    rows = [
        "Most allocated in one update: rollout, three losses, backward, AdamW; timesteps = window.",
        "",
        "| micro-batch | window | latent steps | checkpointed | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for batch, window, latent, checkpointed in MEMORY:
        torch.cuda.empty_cache()
        mebibytes = peak(batch, window, latent, checkpointed, CUDA) / 2**20
        kind = "yes" if checkpointed else "no"
        rows.append(f"| {batch} | {window} | {latent} | {kind} | {mebibytes:,.0f} |")
    return [*rows, ""]


WAITING = (
    "A batch of 32 takes little longer than one of 4: at these sizes the GPU waits for the CPU to "
    "launch its kernels. So a GPU is better filled by larger batches, or by several trials on it "
    "(`resources.gpus_per_worker` below 1)."
)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("Error: torch sees no CUDA device here.")
    facts = provenance()
    lines = [
        "# A NOA's training step on a GPU",
        "",
        f"Made by `python benchmarks/gpu.py`, commit {facts['commit']}, {facts['created'][:10]}, "
        f"on {torch.cuda.get_device_name()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        f"Default architecture, 64x64, one channel, {PARAMETERS} operator parameters. Windows of "
        f"{WINDOW} steps, medians of {ROUNDS} interleaved rounds after 2, per step.",
        "",
        "## Time",
        "",
        *(line for batch in BATCHES for line in steps(batch)),
        WAITING,
        "",
        "## Precision",
        "",
        *precision(),
        "## Memory",
        "",
        *memory(),
    ]
    RESULT.write_text("\n".join(lines).rstrip() + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
