"""Gradient diagnosis: exact norms for every window, the documented failure, and what cures it."""

import itertools
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from dataset_files import plan, rows
from torch import Tensor, nn
from typer.testing import CliRunner

from spinlock import artifact, cli, config
from spinlock.data import open_dataset
from spinlock.data.writer import DatasetWriter
from spinlock.errors import ArtifactError, ConfigError, TrainingError
from spinlock.evaluation.forward import observed, statistics
from spinlock.evaluation.gradient_fix import commands, mended, write_recipe
from spinlock.evaluation.gradient_judge import judge
from spinlock.evaluation.gradient_measurement import Measurement, measure
from spinlock.evaluation.gradient_window import (
    LARGE,
    OVERFLOW,
    WindowNorms,
    advice,
    total_norm,
    window_norms,
)
from spinlock.evaluation.gradients import diagnose
from spinlock.evaluation.probe import Probe, probe, spread
from spinlock.evaluation.subject import load_subject
from spinlock.evaluation.verdict import Status
from spinlock.noa import UAFNO, UAFNOConfig, rollout
from spinlock.training import checkpoint
from spinlock.training.batches import Batch
from spinlock.training.config import NOATraining, RolloutConfig, training_config
from spinlock.training.losses import TERMS
from spinlock.training.noa_recipe import KEYS, noa_training
from spinlock.training.noa_task import NOATask
from spinlock.training.trainer import Trainer

SMALL = {
    "base_channels": 4,
    "encoder_levels": 1,
    "modes": 4,
    "afno_blocks": 1,
    "blocks_per_level": 1,
}
LONG = 256


def small_model(parameters: int = 3) -> UAFNO:
    torch.manual_seed(0)
    model = UAFNO(UAFNOConfig(**SMALL), channels=1, grid=(8, 8), parameters=parameters)
    with torch.no_grad():  # conditioning that does something
        for parameter in model.film.out.parameters():
            parameter.normal_(0, 0.1)
    return model


def unstable() -> UAFNO:
    """At rest it stays at rest to the bit; a deviation grows by about half in every step.

    Without biases and shifts the field 0 is a fixed point. There a normalization is a linear map of
    gain weight / sqrt(eps), here 1, and the size of the head sets the growth.
    """
    model = small_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name == "film.out.weight":
                parameter.zero_()
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.fill_(math.sqrt(module.eps))
        model.head.weight.mul_(140)
    return model


@pytest.fixture(scope="module")
def resting_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two operators whose initial field is 0 and whose later frames are small noise."""
    path = tmp_path_factory.mktemp("rest") / "rest.h5"
    made = plan(2, realizations=1, frames=LONG + 1, grid=8, channel_names=("a",), features={})
    values = rows(made)
    values["inputs/fields"][:] = 0
    values["outputs/fields"] *= 0.01
    values["outputs/fields"][:, :, 0] = 0
    with DatasetWriter(path, made) as writer:
        writer.append(values)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def sick(resting_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's case as an artifact: 256 steps, no window, an expansive model."""
    path = tmp_path_factory.mktemp("sick") / "noa"
    training = NOATraining.model_validate(
        {
            "data": {"path": str(resting_data)},
            "model": SMALL,
            "rollout": {"timesteps": LONG, "bptt_window": LONG},
            "loss": {"lambda_commit": 0, "lambda_latent": 0},
            "optimizer": {"warmup_steps": 7, "weight_decay": 0.5},
        }
    ).model_dump(mode="json")
    training["rollout"]["bptt_window"] = None
    artifact.save(
        path,
        kind="noa",
        config={
            "model": training["model"],
            "channels": ["a"],
            "grid": [8, 8],
            "parameters": ["p", "q=even", "q=odd"],
        },
        weights={f"uafno.{name}": value for name, value in unstable().state_dict().items()},
        metrics={},
        provenance={"training": training, "facts": {}},
    )
    return path


@pytest.fixture
def aligned(tiny_data: Path, tiny_tokenizer: Path) -> dict[str, Any]:
    return {
        "task": "noa",
        "data": {"path": str(tiny_data)},
        "tokenizer": str(tiny_tokenizer),
        "model": SMALL,
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "loss": {"lambda_commit": 0.3, "lambda_latent": 0.7},
        "batch_size": 4,
        "epochs": 1,
    }


def trainer_of(document: dict[str, Any]) -> Trainer:
    return Trainer(training_config(document, where="test"))


def autograd_norm(model: UAFNO, found: Probe, window: int) -> float:
    """By the rollout itself, as the trainer does it."""
    model.zero_grad()
    rolled = rollout(
        model, found.initial, found.parameters, timesteps=found.timesteps, window=window
    )
    torch.nn.functional.mse_loss(rolled.supervised, found.target[:, -window:]).backward()
    norm = total_norm(model)
    model.zero_grad()
    return norm


def random_probe(model: UAFNO, timesteps: int, window: int) -> Probe:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Probe(
        model=model,
        initial=drawn(2, 1, 8, 8),
        parameters=drawn(2, 3),
        target=drawn(2, timesteps, 1, 8, 8),
        window=window,
        weights={"traj": 1.0},
        source="the test",
    )


# Exactness


def test_one_sweep_gives_the_gradient_of_every_window() -> None:
    model = small_model()
    found = random_probe(model, 12, 5)
    with torch.no_grad():
        frames = rollout(model, found.initial, found.parameters, timesteps=12, window=12).frames
    norms = window_norms(model, frames, found.parameters, found.target)
    expected = [autograd_norm(model, found, window) for window in range(1, 13)]
    assert norms.parameters == pytest.approx(expected, rel=2e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_parameters_gradient_is_that_of_the_training_with_all_its_terms(
    aligned: dict[str, Any], tmp_path: Path
) -> None:
    trainer = trainer_of(aligned)
    trainer.save(tmp_path)
    task = trainer.task
    assert isinstance(task, NOATask)
    subject = load_subject(tmp_path)
    found = probe(subject, samples=3)
    batch = Batch(found.initial, found.parameters, found.target[:, -4:])
    prediction = task.predict(batch, task.tapped)
    terms = {name: TERMS[name](prediction) for name in task.weights}
    sum(weight * terms[name] for name, weight in task.weights.items()).backward()
    measured = measure(found)
    assert found.weights == task.weights == {"traj": 1.0, "commit": 0.3, "latent": 0.7}
    assert measured.losses == pytest.approx(
        {
            **{name: term.item() for name, term in terms.items()},
            "total": sum(task.weights[name] * term.item() for name, term in terms.items()),
        },
        rel=1e-5,
    )
    expected = {name: p.grad.norm().item() for name, p in task.modules.named_parameters()}
    assert {each.name: each.norm for each in measured.gradients} == pytest.approx(
        expected, rel=1e-4, abs=1e-7
    )
    assert {each.name for each in measured.tensors} >= {"latents", "quantized", "projected"}


def test_the_samples_are_spread_over_the_file() -> None:
    assert spread(100, 3) == [0, 50, 99] or spread(100, 3) == [0, 49, 99]
    assert spread(2, 8) == [0, 1]
    assert spread(5, 1) == [0]


# The documented failure


def test_long_rollouts_without_a_window_overflow_and_the_recommended_window_cures_them(
    sick: Path,
) -> None:
    """Same weights, same data, a finite forward pass: only the window differs."""
    subject = load_subject(sick)
    found = probe(subject, samples=1)
    model = subject.model
    with torch.no_grad():
        frames = rollout(model, found.initial, found.parameters, timesteps=LONG, window=LONG).frames
    assert torch.equal(frames, torch.zeros_like(frames))

    norms = {window: autograd_norm(model, found, window) for window in (16, 32, LONG)}
    assert not math.isfinite(norms[LONG])
    assert norms[advice(LONG).window or 0] < LARGE

    report = diagnose(subject, found)
    assert (report.verdict, report.fix) == (Status.FAIL, 32)
    assert "CRITICAL: timesteps 256 without a bptt_window" in report.findings[0].sentence
    assert report.findings[1].sentence == "Every value of the forward pass is finite."
    windows = report.measured.windows
    assert 1.3 < windows.growth < 1.7
    assert windows.of(32) == pytest.approx(norms[32], rel=1e-3)
    assert 64 < windows.first_unusable < LONG
    assert all(not n < OVERFLOW for n in windows.parameters[windows.first_unusable :])
    bad = {each.name for each in report.measured.nonfinite}
    assert "uafno.stem.norm.bias" in bad
    assert (
        f"{len(bad)} of {len(report.measured.gradients)} parameters" in report.findings[2].sentence
    )

    cured = diagnose(subject, replace(found, window=32))
    assert (cured.verdict, cured.fix, cured.measured.nonfinite) == (Status.PASS, None, ())
    assert cured.measured.norm == pytest.approx(norms[32], rel=1e-3)


def run(*words: str | Path, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(cli.commands(), [str(word) for word in words], env={"COLUMNS": "100"})
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_command_tells_of_a_sick_checkpoint_in_five_parts_with_the_command_that_mends_it(
    sick: Path, tmp_path: Path
) -> None:
    told = run(
        *("diagnose-gradients", "--checkpoint", sick, "--n-samples", "1", "--strict"),
        *("--json", tmp_path / "found.json", "--recipe", tmp_path / "mended.yaml"),
        code=1,
    )
    parts = [
        "1. Config",
        "2. Forward",
        "3. Backward",
        "4. Gradient",
        "5. Gradient",
        "Verdict: FAIL",
    ]
    assert [told.index(part) for part in parts] == sorted(told.index(part) for part in parts)
    assert "uafno.stem.norm.bias" in told
    assert f"spinlock train {tmp_path / 'mended.yaml'} --out NEW_RUN\n" in told
    assert "spinlock train-noa --dataset" in told
    recipe = config.load(NOATraining, tmp_path / "mended.yaml")
    assert recipe.rollout == RolloutConfig(timesteps=LONG, bptt_window=32)
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["verdict"], found["fix"], len(found["commands"])) == ("FAIL", 32, 2)
    assert found["windows"]["norm_by_window"]["256"] in ("inf", "nan")
    assert found["gradients"]["nonfinite"]


def test_the_command_finds_nothing_wrong_with_a_healthy_checkpoint(
    aligned: dict[str, Any], tmp_path: Path
) -> None:
    trainer_of(aligned).save(tmp_path / "step_0.pt")
    told = run("diagnose-gradients", "--checkpoint", tmp_path / "step_0.pt", "--strict", "--all")
    assert "Verdict: PASS" in told
    assert "None of" in told
    assert "decoder.0.blocks.0.first.norm" in told
    assert "Fix" not in told


# Judgement


def test_a_window_is_called_required_exactly_where_a_training_without_one_is_refused() -> None:
    for timesteps in range(1, 300):
        try:
            RolloutConfig(timesteps=timesteps)
            refused = False
        except ValueError:
            refused = True
        assert (advice(timesteps).necessity == "required") == refused
        window = advice(timesteps).window
        assert window is None or RolloutConfig(timesteps=timesteps, bptt_window=window)


def measured_with(norms: list[float], whole: float | None = None) -> Measurement:
    found = random_probe(small_model(), 2, 2)
    windows = WindowNorms(tuple(norms), tuple(norms))
    return replace(measure(found), windows=windows, norm=norms[-1] if whole is None else whole)


def test_where_one_step_already_explodes_no_window_is_recommended() -> None:
    findings, fix = judge(4, 4, measured_with([1e9] * 4))
    assert fix is None
    assert "No window cures this" in findings[-1].sentence


def test_where_only_other_terms_explode_the_window_is_not_blamed() -> None:
    findings, fix = judge(4, 4, measured_with([1.0] * 4, whole=1e9))
    assert fix is None
    assert "other terms are at fault" in findings[-1].sentence


def test_a_norm_whose_square_overflows_is_told_as_a_skipped_update() -> None:
    findings, fix = judge(16, 16, measured_with([10.0**k for k in range(5, 21)]))
    assert "square overflows float32" in findings[2].sentence
    assert fix == 4
    assert findings[2].status is Status.FAIL


def test_skipped_updates_on_record_are_told(aligned: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(aligned)
    list(trainer.epochs())
    trainer.save(tmp_path)
    saved = checkpoint.read(tmp_path)
    saved["run"]["history"][0]["metrics"]["skipped_updates"] = 2.0
    saved["run"]["history"][0]["nonfinite"] = {"uafno.head.weight": 2}
    checkpoint.write(tmp_path, saved)
    subject = load_subject(tmp_path)
    report = diagnose(subject, probe(subject, samples=1))
    assert report.verdict is Status.WARN
    assert report.findings[0].sentence == (
        "2 updates were skipped in training, in epochs 1, most often for uafno.head.weight."
    )


# The forward pass


def test_statistics_are_those_of_the_finite_values() -> None:
    values = torch.tensor([1.0, 5.0, math.nan, math.inf, -math.inf, 3.0])
    found = statistics("x", values)
    assert (found.values, found.nan, found.inf, found.bad) == (6, 1, 2, 3)
    assert (found.minimum, found.maximum, found.mean) == (1.0, 5.0, 3.0)
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    assert math.isnan(statistics("y", values[2:4]).mean)


def test_every_module_is_watched_over_all_steps_and_let_go() -> None:
    model = small_model()
    found = random_probe(model, 3, 3)
    outputs: list[Tensor] = []
    handle = model.stem.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad(), observed(model) as seen:
        rollout(model, found.initial, found.parameters, timesteps=3, window=3)
    handle.remove()
    names = {name or "state" for name, module in model.named_modules() if not _is_list(module)}
    levels = {name for name in names if name.endswith(".blocks")}
    assert {each.name for each in seen} == names - levels
    (stem,) = (each for each in seen if each.name == "stem")
    whole = torch.stack(outputs)
    assert stem.values == whole.numel()
    assert (stem.minimum, stem.maximum) == (whole.min().item(), whole.max().item())
    assert stem.std == pytest.approx(whole.double().std(correction=0).item(), rel=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList)


def test_the_first_module_that_makes_a_nan_is_named_with_its_step() -> None:
    model = small_model()
    with torch.no_grad():
        model.decoder[0].blocks[0].first.norm.weight.fill_(math.nan)
    findings, fix = judge(3, 3, measure(random_probe(model, 3, 3)))
    assert findings[1].sentence.startswith(
        "The rollout itself is not finite: first at step 1, in decoder.0.blocks.0.first.norm."
    )
    assert fix is None


# What it is given


def test_steps_beyond_the_files_frames_are_refused_with_what_to_do(
    aligned: dict[str, Any], tmp_path: Path
) -> None:
    trainer_of(aligned).save(tmp_path)
    subject = load_subject(tmp_path)
    with pytest.raises(TrainingError, match=r"holds 9\. Give --timesteps of at most 8, or --synth"):
        probe(subject, timesteps=64)
    found = probe(subject, timesteps=64, synthetic=True, samples=2)
    assert found.timesteps == found.window * 16 == 64
    assert torch.equal(found.target[:, 63], found.initial)
    assert any("random" in note for note in found.notes)
    assert any(
        "Left out of the loss: commit, latent; the tokenizer reads 9" in n for n in found.notes
    )
    with pytest.raises(TrainingError, match="bptt-window 9 is longer than the 8 timesteps"):
        probe(subject, window=9)


def test_an_artifact_is_examined_without_its_data(sick: Path, tmp_path: Path) -> None:
    found = artifact.load(sick, "noa")
    moved = config.replace(found.provenance["training"], {"data.path": str(tmp_path / "gone.h5")})
    artifact.save(
        tmp_path / "noa",
        kind="noa",
        config=found.config,
        weights=found.weights,
        metrics={},
        provenance={"training": moved, "facts": {}},
    )
    subject = load_subject(tmp_path / "noa")
    assert probe(subject, timesteps=4).source == "synthetic"


def test_a_checkpoint_whose_data_is_gone_asks_where_it_is(
    aligned: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    trainer_of(aligned).save(tmp_path)
    saved = checkpoint.read(tmp_path)
    saved["config"]["data"]["path"] = str(tmp_path / "gone.h5")
    checkpoint.write(tmp_path, saved)
    with pytest.raises(ArtifactError, match="Say where it is with --dataset"):
        load_subject(tmp_path)
    assert load_subject(tmp_path, open_dataset(tiny_data)).grid == (16, 16)


def test_what_is_no_noa_is_refused(
    aligned: dict[str, Any], tiny_tokenizer: Path, resting_data: Path, tmp_path: Path
) -> None:
    trainer_of(aligned).save(tmp_path / "run" / "checkpoint")
    with pytest.raises(ArtifactError, match=r"Did you mean .*/run/checkpoint\?"):
        load_subject(tmp_path / "run")
    with pytest.raises(ArtifactError, match="expected a noa, found a vqvae"):
        load_subject(tiny_tokenizer)
    with pytest.raises(ArtifactError, match="do not fit fields of 1 channels on 8 x 8"):
        load_subject(tmp_path / "run" / "checkpoint", open_dataset(resting_data))


def test_an_artifact_is_not_measured_on_data_of_another_kind(sick: Path, tiny_data: Path) -> None:
    subject = load_subject(sick)
    with pytest.raises(ArtifactError, match="trained on channels a on 8 x 8 with parameters p, q="):
        probe(subject, open_dataset(tiny_data), timesteps=4)


# The command that mends


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss.lambda_latent": 0},
        {
            "optimizer.weight_decay": 0.2,
            "model.blocks_per_level": 2,
            "nonfinite.max_consecutive": 4,
        },
        {"data.operators": 6, "early_stopping_patience": 2, "optimizer.warmup_steps": 500},
        {"tokenizer": None, "loss.lambda_commit": 0, "loss.lambda_latent": 0},
    ],
)
def test_both_commands_are_the_same_training_with_the_window(
    changes: dict[str, Any], aligned: dict[str, Any], tmp_path: Path
) -> None:
    then = training_config(config.replace(aligned, changes), where="t").model_dump(mode="json")
    wanted = mended(then, 48, 32)
    recipe = tmp_path / "then.yaml"
    recipe.write_text(config.as_yaml(then))
    by_recipe, by_flags = (shlex.split(line) for line in commands(then, wanted))
    assert by_recipe[:3] == ["spinlock", "train", "RECIPE.yaml"]
    settings = [word for flag, word in itertools.pairwise(by_recipe) if flag == "--set"]
    assert settings == ["rollout.timesteps=48", "rollout.bptt_window=32"]
    assert config.load(NOATraining, recipe, settings) == wanted

    given, overrides = parsed(by_flags)
    assert noa_training(given, overrides=overrides) == wanted
    assert "--bptt-window 32" in shlex.join(by_flags)

    write_recipe(tmp_path / "mended.yaml", wanted)
    assert config.load(NOATraining, tmp_path / "mended.yaml") == wanted


def parsed(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What train-noa makes of a command line."""
    command = typer.main.get_group(cli.commands()).commands[words[1]]
    found = command.make_context(words[1], words[2:]).params
    known = {*KEYS, "enable_latent_loss"}
    given = {k: v for k, v in found.items() if k in known and v is not None and v is not False}
    return given, found["overrides"] or []


def test_a_configuration_that_no_window_makes_valid_says_so(aligned: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is no such key"):
        mended(config.replace(aligned, {"rollout.windows": 3}), 48, 32)
