"""How far a resumed run is from one that was never interrupted: the largest difference anywhere.

    python benchmarks/resume.py

A tokenizer, and a NOA aligned with it, each trained for three epochs: straight through, and for
every update up to there in one process that then ends, the rest in another. Compared are all
weights, the optimizer's state and every number that was reported. Writes
benchmarks/results/resume.md.
"""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from spinlock.artifact import provenance
from spinlock.data.generate import GenerateConfig, generate
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.trainer import Trainer

RESULT = Path(__file__).parent / "results" / "resume.md"
MEASURED = ("seconds", "peak_memory_bytes")
DATA = {
    "operators": 24,
    "seed": 0,
    "grid": 16,
    "frames": 9,
    "domain": {"kind": "cno", "dt": 0.1},
}


def runs(place: Path) -> dict[str, dict[str, Any]]:
    common = {"data": {"path": str(place / "data.h5")}, "batch_size": 4, "epochs": 3}
    tokenizer = common | {"task": "vqvae", "optimizer": {"lr": 1e-3, "warmup_steps": 3}}
    noa = common | {
        "task": "noa",
        "tokenizer": str(place / "tokenizer"),
        "optimizer": {"lr": 1e-3, "warmup_steps": 3},
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "model": {"base_channels": 8, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
    }
    return {"vqvae": tokenizer, "noa": noa}


def killed(document: dict[str, Any], place: Path, step: int) -> None:
    """Train, save after update `step`, and be killed at once."""
    torch.set_num_threads(1)

    def save(trainer: Trainer) -> None:
        if trainer.state.global_step == step:
            trainer.save(place / f"{step}")
            os.kill(os.getpid(), signal.SIGKILL)

    list(Trainer(training_config(document, where="run"), on_step=save).epochs())


def to_the_end(document: dict[str, Any], place: Path, step: int | None) -> None:
    """Train, from a checkpoint if there is one, and write down all that there is to compare."""
    torch.set_num_threads(1)
    trainer = Trainer(training_config(document, where="run"))
    if step is not None:
        trainer.restore(place / f"{step}")
    found: dict[str, Tensor] = {}
    for report in trainer.epochs():
        for name, value in report.metrics.items():
            if name not in MEASURED:
                found[f"epoch {report.epoch} {name}"] = torch.tensor(value, dtype=torch.float64)
    found |= trainer.task.modules.state_dict()
    for index, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer {index} {key}": value for key, value in state.items()}
    found["updates"] = torch.tensor(trainer.state.global_step)
    torch.save(found, place / ("straight" if step is None else f"from-{step}"))


def in_a_process(what: Callable[..., None], *arguments: object) -> None:
    process = get_context("spawn").Process(target=what, args=arguments)
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{what.__name__} ended with {process.exitcode}")


def difference(straight: dict[str, Tensor], resumed: dict[str, Tensor]) -> float:
    """The largest of all that the resumed run has: it reports no epoch before its checkpoint."""
    if not {key for key in straight if not key.startswith("epoch ")} <= resumed.keys():
        raise SystemExit("the resumed run has not all weights and states")
    return max(
        float((value.double() - straight[key].double()).abs().max())
        for key, value in resumed.items()
    )


def main() -> None:
    facts = provenance()
    lines = [
        "# Resume",
        "",
        f"Made by `python benchmarks/resume.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}.",
        "A run is killed with SIGKILL after an update and taken up in another process, once for "
        "each update of three epochs; compared with a run straight through are all weights, the "
        "optimizer's state and all losses that it reports.",
        "",
        "| | killed after update | numbers compared | largest difference |",
        "|---|---|---|---|",
    ]
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        generate(GenerateConfig.model_validate(DATA), place / "data.h5")
        for name, document in runs(place).items():
            (place / name).mkdir()
            in_a_process(to_the_end, document, place / name, None)
            straight = torch.load(place / name / "straight")
            steps, worst, numbers = range(1, int(straight["updates"]) + 1), 0.0, 0
            for step in steps:
                in_a_process(killed, document, place / name, step)
                in_a_process(to_the_end, document, place / name, step)
                resumed = torch.load(place / name / f"from-{step}")
                worst = max(worst, difference(straight, resumed))
                numbers += sum(value.numel() for value in resumed.values())
            lines.append(f"| {name} | each of {len(steps)} | {numbers:,} | {worst:g} |")
            if name == "vqvae":
                train_and_export(
                    Trainer(training_config(document, where="run")), place / "tokenizer"
                )
    RESULT.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
