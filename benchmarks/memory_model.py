"""Does the memory model foretell peaks of settings that it has not seen?

    python benchmarks/memory_model.py --work DIRECTORY

Every setting of a NOA on 64x64 is probed and trained for an epoch of two updates (the second has
the optimizer's state beside it) and its validation by our trainer, in a process of its own. The
model is fitted to the peaks of some settings and foretells the others: other micro-batches,
windows, rollouts, latent steps and widths, with nothing measured of them; then with their own probe
besides, as a trial does it. Settings that were measured are kept in --work. Writes
benchmarks/results/memory_model.md.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from noa_parts import file_of

from spinlock.artifact import provenance
from spinlock.files import atomic_file
from spinlock.search.memory_model import MemoryModel, Peak
from spinlock.search.sizing import OWN, SIZES
from spinlock.training.config import NOATraining, training_config
from spinlock.training.counting import noa_footprint
from spinlock.training.footprint import Footprint
from spinlock.training.prepare import train_and_export
from spinlock.training.trainer import Trainer

RESULT = Path(__file__).parent / "results" / "memory_model.md"
BATCH, UPDATES, VALIDATED = 6, 2, 2
TOKENIZER = {"hidden_dim": 64, "embedding_dim": 32}


@dataclass(frozen=True)
class Setting:
    """What is varied of a NOA."""

    width: int
    timesteps: int
    window: int
    latent_steps: int
    micro_batch: int
    checkpointed: bool = False

    def __str__(self) -> str:
        kept = "yes" if self.checkpointed else "no"
        rollout = f"{self.timesteps} | {self.window} | {self.latent_steps}"
        return f"{self.micro_batch} | {rollout} | {self.width} | {kept}"


FITTED = (
    Setting(8, 16, 4, 3, 1),
    Setting(8, 16, 4, 3, 4),
    Setting(8, 16, 16, 3, 2),
    Setting(8, 8, 8, 3, 6),
    Setting(16, 16, 8, 3, 1),
    Setting(16, 16, 16, 3, 3),
    Setting(16, 8, 8, 3, 2),
    Setting(24, 16, 4, 3, 1),
    Setting(24, 8, 8, 3, 2),
    Setting(16, 16, 16, 3, 2, checkpointed=True),
)
HELD_OUT = (
    Setting(8, 16, 8, 8, 6),
    Setting(8, 16, 16, -1, 6),
    Setting(16, 16, 4, -1, 2),
    Setting(16, 8, 4, 3, 6),
    Setting(16, 16, 16, 8, 6),
    Setting(24, 16, 16, 3, 1),
    Setting(24, 16, 8, 3, 4),
    Setting(32, 8, 8, 3, 2),
    Setting(32, 16, 16, 3, 3),
    Setting(24, 16, 16, 3, 6, checkpointed=True),
    # Held out later, after the weight of a trial's own probe had been raised from 4 to 20.
    Setting(12, 16, 8, 3, 2),
    Setting(24, 16, 16, 8, 2),
    Setting(20, 16, 16, 3, 1),
    Setting(8, 8, 4, -1, 3),
    Setting(28, 8, 8, 3, 4),
)


def main(
    work: Annotated[Path, typer.Option(help="Where data and what was measured are kept.")],
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if one:
        torch.set_num_threads(1)
        print(json.dumps(measure(work, Setting(**json.loads(one)))))
        return
    prepare(work)
    measured = {setting: known(work, setting) for setting in (*FITTED, *HELD_OUT)}
    text = page(work, measured)
    with atomic_file(RESULT) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def config(work: Path, setting: Setting) -> NOATraining:
    found = training_config(
        {
            "data": {
                "path": str(work / "truth.h5"),
                "validation_fraction": VALIDATED / (BATCH * UPDATES + VALIDATED),
            },
            "tokenizer": str(work / f"vqvae-{setting.timesteps}"),
            "model": {"base_channels": setting.width},
            "rollout": {"timesteps": setting.timesteps, "bptt_window": setting.window},
            "loss": {"latent_sample_steps": setting.latent_steps},
            "compute": {"checkpoint_steps": setting.checkpointed},
            "batch_size": BATCH,
            "micro_batch": setting.micro_batch,
            "epochs": 1,
        },
        where=str(setting),
    )
    assert isinstance(found, NOATraining)
    return found


def prepare(work: Path) -> None:
    """Ground truth, and a tokenizer for each length of rollout."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "truth.h5").exists():
        file_of(work, 17, operators=BATCH * UPDATES + VALIDATED)
    for timesteps in sorted({setting.timesteps for setting in (*FITTED, *HELD_OUT)}):
        out = work / f"vqvae-{timesteps}"
        if not out.exists():
            document = {
                "task": "vqvae",
                "data": {"path": str(work / "truth.h5")},
                "frames": timesteps + 1,
                "epochs": 1,
                "model": TOKENIZER,
            }
            train_and_export(Trainer(training_config(document, where="tokenizer")), out)


def known(work: Path, setting: Setting) -> dict[str, Any]:
    """What was measured of a setting, in a process of its own if it was not yet."""
    kept = work / f"{'-'.join(str(value) for value in asdict(setting).values())}.json"
    if not kept.exists():
        words = ["--work", str(work), "--one", json.dumps(asdict(setting))]
        here = str(Path(__file__).resolve())
        done = subprocess.run([sys.executable, here, *words], stdout=subprocess.PIPE, check=True)
        with atomic_file(kept) as path:
            path.write_bytes(done.stdout.splitlines()[-1])
        print(kept.read_text(), flush=True)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def measure(work: Path, setting: Setting) -> dict[str, Any]:
    trainer = Trainer(config(work, setting))
    # A trial whose micro-batch is small has no room for a larger probe.
    probed = trainer.probe([size for size in SIZES if size <= max(2, setting.micro_batch)])
    report = next(trainer.epochs())
    assert report.metrics["micro_batch"] == setting.micro_batch
    assert report.metrics["updates"] == UPDATES
    return {
        "peak": report.metrics["peak_memory_bytes"],
        "probed": [[each.micro_batch, each.peak] for each in probed],
        "probe": sum(each.seconds for each in probed),
        "epoch": report.metrics["seconds"],
    }


def page(work: Path, measured: dict[Setting, dict[str, Any]]) -> str:
    footprints = {setting: noa_footprint(config(work, setting)) for setting in measured}

    def peaks(settings: tuple[Setting, ...]) -> list[Peak]:
        return [
            Peak(footprints[each], each.micro_batch, measured[each]["peak"] - footprints[each].data)
            for each in settings
        ]

    def own(setting: Setting) -> list[Peak]:
        return [
            Peak(footprints[setting], size, peak - footprints[setting].data, OWN)
            for size, peak in measured[setting]["probed"]
        ]

    unseen = MemoryModel.fit(peaks(FITTED))
    facts = provenance()
    rows, errors = list[str](), dict[str, list[float]]({"unseen": [], "alone": [], "both": []})
    for setting in HELD_OUT:
        models = {
            "unseen": unseen,
            "alone": MemoryModel.fit(own(setting)),
            "both": MemoryModel.fit([*peaks(FITTED), *own(setting)]),
        }
        peak, told = measured[setting]["peak"], list[str]()
        for name, model in models.items():
            data = footprints[setting].data
            found = model.predict(footprints[setting], setting.micro_batch) + data
            errors[name].append(found / peak - 1)
            told.append(f"{_mib(found)} ({found / peak - 1:+.1%})")
        rows.append(f"| {setting} | {_mib(peak)} | {' | '.join(told)} |")
    worst = " | ".join(f"{max(map(abs, found)):.1%}" for found in errors.values())
    fits = [unseen.predict(p.footprint, p.micro_batch) / p.peak - 1 for p in peaks(FITTED)]
    below = sum(m["peak"] <= _planned(unseen, footprints[s], s) for s, m in _held(measured))
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in unseen.rates.items())
    share = [each["probe"] / each["epoch"] for each in measured.values()]
    return "\n".join(
        [
            "# A memory model, held against settings that it has not seen",
            "",
            f"Made by `python benchmarks/memory_model.py`, commit {facts['commit']}, "
            f"{facts['created'][:10]}; torch {facts['versions']['torch']} on {platform.machine()}, "
            f"{os.cpu_count()} cores, one thread a process.",
            "A NOA on 64x64, three encoder levels, each setting in a process of its own: a probe, "
            f"then an epoch of {UPDATES} updates of {BATCH} samples and its validation of "
            f"{VALIDATED}. Peaks are resident, torch included.",
            "",
            f"The model is fitted to {len(FITTED)} settings, which it meets within "
            f"{max(map(abs, fits)):.1%}; its rates: {rates}. *Unseen*: what it foretells of "
            "settings of which nothing is measured. *Probe alone*: a model of nothing but the "
            "setting's own probe. *Both*: as a trial plans.",
            "",
            "| micro-batch | timesteps | window | latent steps | width | checkpointed | peak MiB "
            "| unseen | probe alone | both |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            f"| worst | | | | | | | {worst} |",
            "",
            f"With the margin, {unseen.margin:.0%}, {below} of {len(HELD_OUT)} peaks lie below "
            "what a plan without a probe reckons with.",
            f"A probe is updates of at most {sum(SIZES) + 1} samples in all, here {min(share):.0%} "
            f"to {max(share):.0%} of the epoch.",
            "",
        ]
    )


def _held(measured: dict[Setting, dict[str, Any]]) -> list[tuple[Setting, dict[str, Any]]]:
    return [(setting, measured[setting]) for setting in HELD_OUT]


def _planned(model: MemoryModel, footprint: Footprint, setting: Setting) -> float:
    return model.predict(footprint, setting.micro_batch) * (1 + model.margin)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f}"


if __name__ == "__main__":
    typer.run(main)
