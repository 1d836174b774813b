"""Alignment diagnosis: known answers, the trainer's own numbers, and verdicts with reasons."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from spinlock import artifact, cli, config
from spinlock.data import open_dataset
from spinlock.errors import ArtifactError, TrainingError
from spinlock.evaluation.alignment import AlignmentReport, diagnose_alignment
from spinlock.evaluation.alignment_judge import (
    COSINE,
    GRADES,
    LIMITS,
    RECONSTRUCTION,
    Grades,
    judge_alignment,
    overall,
    sections,
)
from spinlock.evaluation.alignment_measurement import (
    AlignmentMeasurement,
    consistency,
    measure_alignment,
    resemblance,
    similarity,
)
from spinlock.evaluation.token_use import Pair
from spinlock.evaluation.verdict import Finding, Status, verdict
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer
from spinlock.vqvae import Tokenizer

DOC = Path(__file__).resolve().parents[1] / "docs" / "diagnose.md"
SMALL = {
    "base_channels": 4,
    "encoder_levels": 1,
    "modes": 4,
    "afno_blocks": 1,
    "blocks_per_level": 1,
}


def document(data: Path, tokenizer: Path | None) -> dict[str, Any]:
    return {
        "task": "noa",
        "data": {"path": str(data), "validation_fraction": 0.4},
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "model": SMALL,
        "rollout": {"timesteps": 8, "bptt_window": 4},
        "loss": {"lambda_commit": 0.1, "lambda_latent": 0.5} if tokenizer is not None else
        {"lambda_commit": 0, "lambda_latent": 0},
        "optimizer": {"lr": 1e-3},
        "batch_size": 4,
        "epochs": 1,
        "seed": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(
    tiny_data: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EpochReport]:
    """An aligned NOA, and what its own training measured of it."""
    path = tmp_path_factory.mktemp("noa") / "best"
    torch.set_num_threads(1)
    trainer = Trainer(training_config(document(tiny_data, tiny_tokenizer), where="test"))
    return path, train_and_export(trainer, path)


@pytest.fixture(scope="module")
def report(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path
) -> AlignmentReport:
    return diagnose_alignment(trained[0], tiny_tokenizer, tiny_data)


@pytest.fixture
def truth(tiny_data: Path) -> Tensor:
    return open_dataset(tiny_data).trajectories(range(12))


# Known answers


def test_the_truth_itself_is_perfectly_aligned(truth: Tensor, tiny_tokenizer: Path) -> None:
    found = measure_alignment(Tokenizer.load(tiny_tokenizer), truth, truth)
    assert found.reconstruction.total.noa == found.reconstruction.total.truth
    assert found.tokens.used.noa == found.tokens.used.truth
    assert found.tokens.entropy.noa == found.tokens.entropy.truth
    assert found.tokens.agreement == 1.0
    assert found.tokens.agreement_other < 1.0
    assert found.resemblance.own.mean == pytest.approx(1.0, abs=1e-6)
    assert found.resemblance.own.mse == 0.0
    assert found.resemblance.identified == 1.0
    assert found.projection is found.consistency is None
    sentences = [f.sentence for f in judge_alignment(found, samples=12, diverged=0)]
    assert not any("times the truth's" in s or "less diverse" in s for s in sentences)


def test_the_families_errors_add_up_to_the_total(truth: Tensor, tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    found = measure_alignment(tokenizer, truth[:, [0]] + 0 * truth, truth).reconstruction
    counts = {
        family: sum(name.startswith(f"{family}.") for name in tokenizer.standardizer.names)
        for family in found.families
    }
    assert set(counts) == {"initial", "summary", "temporal"}
    for side in ("noa", "truth"):
        whole = sum(counts[f] * getattr(pair, side) for f, pair in found.families.items())
        assert getattr(found.total, side) == pytest.approx(whole / sum(counts.values()), rel=1e-5)
    # The initial field is the same, and so is what is said of it alone.
    alone = found.families["initial"]
    assert alone.noa != alone.truth  # the decoder reads all latents together


def test_rollouts_that_are_all_alike_have_one_code_and_no_entropy(
    truth: Tensor, tiny_tokenizer: Path
) -> None:
    same = truth[:1].expand_as(truth).contiguous()
    found = measure_alignment(Tokenizer.load(tiny_tokenizer), same, truth)
    tokens = found.tokens
    assert tokens.used.noa == len(tokens.codebooks)
    assert tokens.entropy.noa == 0.0
    assert tokens.reachable == sum(min(book.codes, 12) for book in tokens.codebooks)
    assert found.resemblance.identified == pytest.approx(1 / 12)
    said = judge_alignment(found, samples=12, diverged=0)
    assert any("less diverse than the truth: 0 bits" in each.sentence for each in said)
    assert any("as much like other truths" in each.sentence for each in said)


def test_latents_of_known_angles_have_their_cosines() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    turned = torch.tensor([[1.0, 1.0], [0.0, 0.5], [0.0, 1.0]])
    found = resemblance(turned, truth)
    half = math.sqrt(0.5)
    assert found.own.cosines == pytest.approx((half, 1.0, 0.0))
    assert found.others == pytest.approx(((half - half) / 2, 0.0, 0.5))
    assert found.own.mse == pytest.approx((0 + 1 + 0 + 2.25 + 9 + 1) / 6)
    # Who gives the mean, (-2/3, 2/3), for every sample.
    assert found.own.blind == pytest.approx((-half + half + half) / 3)
    assert found.own.variance == pytest.approx((26 / 9 + 8 / 9) / 2)
    mean = truth.mean(0).expand_as(truth)
    blind = similarity(mean, truth)
    assert (blind.mean, blind.mse) == pytest.approx((blind.blind, blind.variance))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_margins_do_not_depend_on_the_order_of_samples_or_the_scale_of_latents(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noa, truth = torch.randn(2, 9, 5, generator=generator)
    order = torch.randperm(9, generator=generator)
    one, other = resemblance(noa, truth), resemblance(3 * noa[order], truth[order] / 2)
    assert other.margin == pytest.approx(one.margin, rel=1e-3, abs=1e-4)
    assert other.identified == one.identified


def test_consistency_is_the_variation_of_the_norm_along_the_window() -> None:
    unit = torch.tensor([0.6, 0.8])
    steady = unit.expand(4, 5, 2)
    growing = steady * torch.tensor([1.0, 3.0, 1.0, 3.0, 2.0])[:, None]
    found = consistency(growing, steady)
    assert found.variation.truth == pytest.approx(0.0, abs=1e-6)
    assert found.variation.noa == pytest.approx(math.sqrt(0.8) / 2)
    assert (found.norm.noa, found.norm.truth) == pytest.approx((2.0, 1.0))
    assert [pair.noa for pair in found.norms] == pytest.approx([1, 3, 1, 3, 2])


def test_l_latent_and_the_error_are_what_training_measured_on_the_same_operators(
    trained: tuple[Path, EpochReport], report: AlignmentReport, tiny_data: Path
) -> None:
    _, epoch = trained
    assert "held out of its training" in report.notes[0]
    assert report.samples == 5
    assert report.measured is not None
    assert report.measured.projection is not None
    assert report.measured.projection.mse == pytest.approx(epoch.metrics["val/latent"], rel=1e-4)
    assert report.persistence > 0
    assert report.diverged == 0


def test_the_number_of_rollouts_done_at_once_changes_nothing(
    trained: tuple[Path, EpochReport],
    report: AlignmentReport,
    tiny_data: Path,
    tiny_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spinlock.evaluation.alignment_rollouts.AT_ONCE", 2)
    told: list[tuple[int, int]] = []
    again = diagnose_alignment(
        trained[0], tiny_tokenizer, tiny_data, progress=lambda *x: told.append(x)
    )
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert again.error == pytest.approx(report.error, rel=1e-5)
    assert again.measured is not None
    assert report.measured is not None
    assert again.measured.projection.mean == pytest.approx(
        report.measured.projection.mean, rel=1e-4
    )


# Verdicts


def test_the_grades_and_limits_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| ([a-z][^|]*?) \| ([<>]) \| (.*?) \| `(\w+)` \|$", DOC.read_text(), re.M)
    assert rows == [
        (
            each.measure,
            each.better,
            ", ".join(f"{w} {limit:g}" for w, limit in zip(each.words, each.limits, strict=False)),
            each.passing,
        )
        for each in GRADES
    ]
    compared = re.findall(r"^\| ([a-z][^|]*?) \| ([<>]) ([\d.]+) \|$", DOC.read_text(), re.M)
    assert compared == [(each.measure, each.better, f"{each.limit:g}") for each in LIMITS]


@pytest.mark.parametrize("grades", GRADES, ids=lambda grades: grades.measure)
def test_a_better_value_never_has_a_worse_grade(grades: Grades) -> None:
    order = [Status.PASS, Status.WARN, Status.FAIL]
    values = [k / 100 for k in range(0, 130)]
    if grades.better == ">":
        values.reverse()
    words = [grades.words.index(grades.word(value)) for value in values]
    statuses = [order.index(grades.status(value)) for value in values]
    assert words == sorted(words)
    assert statuses == sorted(statuses)
    assert {*words} == {0, 1, 2, 3}
    assert {*statuses} == {0, 1, 2}
    assert grades.status(math.nan) is Status.FAIL


def test_the_guides_own_example_has_the_guides_own_grades() -> None:
    """Its report: 0.3245 Good, 67.3 % Good, 0.623 Moderate, 0.055 Good; GOOD together."""
    values = (0.3245, 0.673, 0.623, 0.055)
    assert [g.word(v) for g, v in zip(GRADES, values, strict=True)] == [
        *("Good", "Good", "Moderate", "Good")
    ]
    assert {g.status(v) for g, v in zip(GRADES, values, strict=True)} == {Status.PASS}
    assert RECONSTRUCTION.status(0.7) is Status.WARN
    assert COSINE.status(0.2) is Status.FAIL


def test_every_section_can_fail_a_verdict_with_its_own_reason(report: AlignmentReport) -> None:
    measured = report.measured
    assert measured is not None
    reconstruction = replace(measured.reconstruction, total=Pair(3.0, 1.0))
    projection = replace(measured.projection, cosines=(0.1, 0.2))
    steady = replace(measured.consistency, variation=Pair(0.5, 0.1))
    for change, reason in (
        ({"reconstruction": reconstruction}, "cannot say what the rollouts are"),
        ({"projection": projection}, "a cosine of 0.150 with its rollouts' latents"),
        ({"consistency": steady}, "their norm varies by 50.0%, by 10.0% on true states"),
    ):
        said = judge_alignment(replace(measured, **change), samples=5, diverged=0)
        (found,) = [each for each in said if reason in each.sentence]
        assert found.status is Status.FAIL
        assert verdict(said) is Status.FAIL
    ignorant = replace(measured.projection, mse=2.0, variance=1.0)
    said = judge_alignment(replace(measured, projection=ignorant), samples=5, diverged=0)
    assert any("knows nothing of a single rollout" in each.sentence for each in said)
    (ratio,) = [
        each.sentence
        for each in judge_alignment(
            replace(measured, reconstruction=reconstruction), samples=5, diverged=0
        )
        if "times the truth's" in each.sentence
    ]
    assert "is 3 times the truth's" in ratio


def test_a_verdict_is_the_worst_finding() -> None:
    found = [Finding(status, "") for status in (Status.PASS, Status.WARN, Status.PASS)]
    assert verdict(found) is Status.WARN
    assert verdict([]) is Status.PASS


def test_the_grade_is_over_the_sections_that_were_measured(report: AlignmentReport) -> None:
    assert report.measured is not None
    less = replace(report.measured, projection=None, consistency=None)
    assert [section.word is None for section in sections(less)] == [False, False, True, True]
    assert overall(sections(less)) in ("EXCELLENT", "GOOD", "MODERATE", "POOR")


# What it is given


def changed(source: Path, path: Path, **weights: float) -> Path:
    """The artifact with some weights multiplied."""
    found = artifact.load(source, "noa")
    for name, factor in weights.items():
        key = name.replace("__", ".")
        found.weights[key] = found.weights[key] * factor
    artifact.save(
        path,
        kind="noa",
        config=found.config,
        weights=found.weights,
        metrics={},
        provenance=found.provenance,
    )
    return path


def test_rollouts_that_diverge_are_counted_and_fail(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    sick = changed(trained[0], tmp_path / "sick", uafno__head__weight=math.inf)
    found = diagnose_alignment(sick, tiny_tokenizer, tiny_data)
    assert (found.verdict, found.grade, found.diverged) == (Status.FAIL, "POOR", 5)
    assert "5 of 5 rollouts are not finite" in found.findings[0].sentence
    assert json.dumps(found.document(), allow_nan=False)


def test_a_noa_that_was_trained_without_a_tokenizer_is_judged_by_its_rollouts(
    tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    trainer = Trainer(training_config(document(tiny_data, None), where="test"))
    trainer.save(tmp_path / "step_0.pt")
    found = diagnose_alignment(tmp_path / "step_0.pt", tiny_tokenizer, tiny_data, samples=3)
    assert found.samples == 3
    assert found.measured is not None
    assert found.measured.projection is None
    assert "no projector" in found.notes[0]


def test_a_projector_of_another_tokenizer_is_not_looked_at(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    with torch.no_grad():
        tokenizer.vqvae.bank.codebooks.mul_(1.01)
    tokenizer.save(tmp_path / "other", {}, {})
    found = diagnose_alignment(trained[0], tmp_path / "other", tiny_data)
    assert found.measured is not None
    assert found.measured.projection is None
    assert "another tokenizer" in found.notes[0]


def test_files_that_do_not_fit_are_refused(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="expected a noa, found a vqvae"):
        diagnose_alignment(tiny_tokenizer, tiny_tokenizer, tiny_data)
    with pytest.raises(ArtifactError, match="expected a vqvae, found a noa"):
        diagnose_alignment(trained[0], trained[0], tiny_data)
    short = Tokenizer.load(tiny_tokenizer)
    short.frames = 40
    short.save(tmp_path / "long", {}, {})
    with pytest.raises(TrainingError, match="reads 40 frames; the file holds 9"):
        diagnose_alignment(trained[0], tmp_path / "long", tiny_data)


def test_data_that_it_was_not_trained_on_is_told(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(tiny_data.read_bytes())
    with h5py.File(other, "r+") as file:
        file["outputs/fields"][0, 0, 8] += 1
    found = diagnose_alignment(trained[0], tiny_tokenizer, other)
    assert found.samples == 12
    assert any("not the one that it was trained on" in note for note in found.notes)


# The command


def run(*words: str | Path, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(cli.commands(), [str(word) for word in words], env={"COLUMNS": "100"})
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_command_prints_four_sections_and_a_verdict_and_writes_what_is_asked_for(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = [
        *("diagnose-alignment", "--noa", trained[0], "--vqvae", tiny_tokenizer),
        *("--dataset", tiny_data, "--n-samples", "4"),
    ]
    told = run(*words, "--json", tmp_path / "a.json", "--picture", tmp_path / "a.png")
    parts = ["1. VQ", "2. Token", "3. Alignment", "4. Temporal", "Overall", "Verdict: "]
    assert [told.index(part) for part in parts] == sorted(told.index(part) for part in parts)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["samples"] == 4
    assert f"Verdict: {found['verdict']}" in told
    assert all(each["sentence"] in told for each in found["findings"])
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    run(*words, "--strict", code=1 if found["verdict"] == "FAIL" else 0)


def test_the_json_holds_what_was_measured(report: AlignmentReport) -> None:
    assert isinstance(report.measured, AlignmentMeasurement)
    assert {"verdict", "grade", "thresholds", "measured"} <= report.document().keys()
    assert config.dotted(report.document()["measured"])["reconstruction.total.noa"] == (
        report.measured.reconstruction.total.noa
    )
