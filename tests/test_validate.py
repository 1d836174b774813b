"""Validation of a NOA and a tokenizer that were trained apart: known answers, then the command."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from spinlock import cli
from spinlock.data import open_dataset
from spinlock.evaluation.alignment_rollouts import Rolled
from spinlock.evaluation.distributions import by_family, compare_features
from spinlock.evaluation.trajectory_errors import energies, trajectory_errors
from spinlock.evaluation.validation import ValidationReport, validate
from spinlock.evaluation.validation_judge import DISTANCE, MAX_RATIO, judge_validation, rules
from spinlock.evaluation.validation_measurement import ValidationMeasurement, measure_validation
from spinlock.evaluation.verdict import Finding, Status, verdict
from spinlock.training.config import training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer
from spinlock.vqvae import Tokenizer

DOC = Path(__file__).resolve().parents[1] / "docs" / "validate.md"
SMALL = {
    "base_channels": 4,
    "encoder_levels": 1,
    "modes": 4,
    "afno_blocks": 1,
    "blocks_per_level": 1,
}


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpochReport]:
    """A NOA of states alone, and what its own training measured of it."""
    path = tmp_path_factory.mktemp("noa") / "best"
    document = {
        "task": "noa",
        "data": {"path": str(tiny_data), "validation_fraction": 0.4},
        "model": SMALL,
        "rollout": {"timesteps": 8},
        "loss": {"lambda_commit": 0, "lambda_latent": 0},
        "optimizer": {"lr": 1e-3},
        "epochs": 1,
    }
    torch.set_num_threads(1)
    return path, train_and_export(Trainer(training_config(document, where="test")), path)


@pytest.fixture(scope="module")
def report(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path
) -> ValidationReport:
    return validate(trained[0], tiny_tokenizer, tiny_data)


@pytest.fixture(scope="module")
def truth(tiny_data: Path) -> Tensor:
    return open_dataset(tiny_data).trajectories(range(12))


def measured(path: Path, frames: Tensor, truth: Tensor, at_once: int = 5) -> ValidationMeasurement:
    parts = zip(frames.split(at_once), truth.split(at_once), strict=True)
    found, diverged = measure_validation(
        Tokenizer.load(path), (Rolled(ours, theirs, None, None) for ours, theirs in parts)
    )
    assert found is not None
    assert not diverged
    return found


def judged(found: ValidationMeasurement) -> tuple[Finding, ...]:
    return judge_validation(found, samples=12, diverged=0, max_ratio=MAX_RATIO)


# Known answers


def test_a_noa_that_returns_the_truth_passes(truth: Tensor, tiny_tokenizer: Path) -> None:
    found = measured(tiny_tokenizer, truth, truth)
    assert found.ratio == 1.0
    assert found.trajectories.relative_l2.noa == found.trajectories.nrmse.noa == 0.0
    assert all(each.ks == each.wasserstein == 0.0 for each in found.features)
    assert all(each.p_value == 1.0 and not each.differs for each in found.features)
    assert found.tokens.agreement == 1.0
    assert found.tokens.entropy.noa == found.tokens.entropy.truth
    assert found.strings.noa == found.strings.truth
    assert verdict(judged(found)) is Status.PASS


def test_a_noa_that_returns_noise_fails_in_everything(truth: Tensor, tiny_tokenizer: Path) -> None:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([truth[:, :1], 3 * noise[:, 1:]], 1)
    found = measured(tiny_tokenizer, frames, truth)
    assert found.ratio > MAX_RATIO
    assert found.trajectories.relative_l2.ratio > 1
    assert {f.status for f in judged(found)[:4]} == {Status.PASS, Status.FAIL, Status.WARN}
    assert sum(f.status is Status.FAIL for f in judged(found)) == 3


def test_other_operators_truths_have_the_right_distribution_and_are_still_wrong(
    truth: Tensor, tiny_tokenizer: Path
) -> None:
    found = measured(tiny_tokenizer, truth.roll(1, 0), truth)
    assert found.ratio == pytest.approx(1.0)
    assert all(each.ks == 0.0 for each in found.features)
    assert found.tokens.agreement < 1.0
    assert found.trajectories.relative_l2.noa > found.trajectories.relative_l2.persistence
    assert verdict(judged(found)) is Status.FAIL


def test_who_stands_still_is_no_better_than_standing_still(
    truth: Tensor, tiny_tokenizer: Path
) -> None:
    found = measured(tiny_tokenizer, truth[:, :1].expand_as(truth).contiguous(), truth)
    for each in (found.trajectories.mse, found.trajectories.nrmse, *found.trajectories.horizon):
        assert each.ratio == pytest.approx(1.0)
    assert any("no closer to the truth than standing still" in f.sentence for f in judged(found))


def test_the_order_of_items_and_how_many_are_read_at_once_change_nothing(
    truth: Tensor, tiny_tokenizer: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(12, generator=generator)
    frames = truth + 0.3 * torch.randn(truth.shape, generator=generator)
    one = measured(tiny_tokenizer, frames, truth, 12)
    other = measured(tiny_tokenizer, frames[order], truth[order], 1)
    assert other.ratio == pytest.approx(one.ratio, rel=1e-5)
    assert [b.entropy for b in other.tokens.codebooks] == [b.entropy for b in one.tokens.codebooks]
    assert other.tokens.agreement == pytest.approx(one.tokens.agreement)
    assert other.trajectories.nrmse.noa == pytest.approx(one.trajectories.nrmse.noa, rel=1e-12)
    for ours, theirs in zip(one.features, other.features, strict=True):
        assert (ours.name, ours.differs) == (theirs.name, theirs.differs)
        assert theirs.ks == pytest.approx(ours.ks, abs=1e-12)
        assert theirs.wasserstein == pytest.approx(ours.wasserstein, abs=1e-5)


def test_errors_are_those_of_the_field_whatever_its_units(truth: Tensor) -> None:
    frames = truth + 0.1
    found = trajectory_errors([energies(frames, truth)])
    parts = (slice(5), slice(5, None))
    scaled = trajectory_errors([energies(7 * frames[part], 7 * truth[part]) for part in parts])
    assert found.mse.noa == pytest.approx(0.01, rel=1e-5)
    assert scaled.mse.noa == pytest.approx(0.49, rel=1e-5)
    assert scaled.relative_l2.noa == pytest.approx(found.relative_l2.noa, rel=1e-5)
    assert scaled.nrmse.noa == pytest.approx(found.nrmse.noa, rel=1e-5)
    target = truth[:, 1:].flatten(1)
    assert found.relative_l2.noa == pytest.approx(
        float(((frames - truth)[:, 1:].flatten(1).norm(dim=1) / target.norm(dim=1)).mean()),
        rel=1e-5,
    )


def test_who_knows_the_mean_of_the_truth_alone_has_an_nrmse_of_1(truth: Tensor) -> None:
    mean = truth[:, 1:].mean((1, 2, 3, 4), keepdim=True)
    found = trajectory_errors([energies(mean.expand_as(truth), truth)])
    assert found.nrmse.noa == pytest.approx(1.0)


def test_a_shifted_feature_is_as_far_as_it_was_shifted_and_alone_differs() -> None:
    truth = np.random.default_rng(0).standard_normal((50, 20))
    noa = truth.copy()
    noa[:, 3] += 0.75
    noa[:, 7] = -truth[:, 7]
    names = [f"{'a' if column < 10 else 'b'}.{column}" for column in range(20)]
    found = compare_features(names, noa, truth)
    assert found[3].wasserstein == pytest.approx(0.75)
    assert [each.name for each in found if each.differs] == ["a.3"]
    assert found[7].correlation == pytest.approx(-1.0)
    families = by_family(found)
    assert (families["a"].features, families["a"].differing, families["a"].worst) == (10, 1, "a.3")
    assert families["b"].ks == families["b"].wasserstein == 0.0
    constant = compare_features(["a.0"], np.ones((5, 1)), np.arange(5.0)[:, None])
    assert constant[0].correlation is by_family(constant)["a"].correlation is None


def test_features_of_one_distribution_rarely_differ() -> None:
    ours, theirs = np.random.default_rng(1).standard_normal((2, 40, 200))
    found = compare_features([f"a.{n}" for n in range(200)], ours, theirs)
    assert 0 < sum(each.p_value < 0.05 for each in found) < 25
    assert not any(each.differs for each in found)


def test_operators_are_those_that_both_trainings_held_out(report: ValidationReport) -> None:
    # The tokenizer holds out 2 of the 12 operators, the NOA 5 with these two among them.
    assert report.samples == 2
    assert "held out of both trainings" in report.notes[0]
    assert report.measured is not None
    assert len(report.measured.trajectories.horizon) == report.timesteps == 8


def test_rollouts_that_diverge_are_counted_and_fail(truth: Tensor, tiny_tokenizer: Path) -> None:
    frames = truth.clone()
    frames[2, 4, 0, 0, 0] = math.nan
    parts = [Rolled(frames, truth, None, None)]
    found, diverged = measure_validation(Tokenizer.load(tiny_tokenizer), parts)
    assert found is not None
    assert diverged == 1
    assert found.ratio == 1.0
    said = judge_validation(found, samples=12, diverged=diverged, max_ratio=MAX_RATIO)
    assert said[0] == Finding(
        Status.FAIL, "1 of 12 rollouts are not finite, and in no other number here."
    )
    parts = [Rolled(truth * math.inf, truth, None, None)]
    found, diverged = measure_validation(Tokenizer.load(tiny_tokenizer), parts)
    assert (found, diverged) == (None, 12)
    (only,) = judge_validation(found, samples=12, diverged=12, max_ratio=MAX_RATIO)
    assert "12 of 12 rollouts are not finite: too few" in only.sentence


def test_the_rules_and_grades_are_the_documented_ones() -> None:
    page = DOC.read_text()
    rows = re.findall(r"^\| ([a-zA-Z][^|]*?) \| ([<>]=?) ([\d.]+) \| (\w+) \|$", page, re.M)
    assert rows == [
        (each.measure, each.better, f"{each.limit:g}", each.otherwise) for each in rules()
    ]
    limits = zip(DISTANCE.words, DISTANCE.limits, strict=False)
    grades = ", ".join([*(f"{word} {limit:g}" for word, limit in limits), DISTANCE.words[-1]])
    assert f"| {DISTANCE.measure} | {grades} |" in page
    statuses = [DISTANCE.status(value) for value in (0.1, 0.3, 0.6, 0.9)]
    assert statuses == [Status.PASS, Status.WARN, Status.FAIL, Status.FAIL]
    assert all(each.status(math.nan) is each.otherwise for each in rules())


# The command


def run(*words: str | Path, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(cli.commands(), [str(word) for word in words], env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    return done.stdout


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What is said to a user's mistake."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: cli.commands()([str(word) for word in words], standalone_mode=False))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_command_prints_the_numbers_that_the_json_and_the_page_hold(
    trained: tuple[Path, EpochReport], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = [
        *("validate", "--noa-checkpoint", trained[0], "--vqvae-path", tiny_tokenizer),
        *("--dataset", tiny_data),
    ]
    told = run(*words, "--json", tmp_path / "v.json", "--pictures", tmp_path / "p")
    parts = ["1. Trajectories", "2. VQ", "3. Distributions", "4. Tokens", "Verdict: "]
    assert [told.index(part) for part in parts] == sorted(told.index(part) for part in parts)
    found = json.loads((tmp_path / "v.json").read_text())
    assert f"Verdict: {found['verdict']}" in told
    assert all(each["sentence"] in told for each in found["findings"])
    rows = {
        cells[0]: cells[1:]
        for line in told.splitlines()
        if len(cells := re.split(r"\s{2,}", line.strip())) > 2
    }
    total = found["measured"]["reconstruction"]["total"]
    ratio = found["measured"]["reconstruction"]["ratio"]
    assert rows["total"] == [f"{total['noa']:.4f}", f"{total['truth']:.4f}", f"{ratio:.2f}"]
    relative = found["measured"]["trajectories"]["relative_l2"]
    assert rows["relative L2"][:2] == [f"{relative['noa']:.4g}", f"{relative['persistence']:.4g}"]
    for name, each in found["measured"]["families"].items():
        assert rows[name.upper()][0] == f"{each['ks']:.3f}"
        assert rows[name.upper()][2] == f"{each['wasserstein']:.3f}"
    assert len(found["measured"]["features"]) == sum(
        each["features"] for each in found["measured"]["families"].values()
    )
    page = (tmp_path / "p" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    assert all(each["name"] in page for each in found["measured"]["features"])
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        *("index.html", "errors.png", "distributions.png", "features.png"),
    }
    run(*words, "--strict", code=1 if found["verdict"] == "FAIL" else 0)


def test_the_ratio_that_passes_is_the_users_choice(
    trained: tuple[Path, EpochReport],
    report: ValidationReport,
    tiny_data: Path,
    tiny_tokenizer: Path,
) -> None:
    assert report.measured is not None
    ratio = report.measured.ratio
    for limit, expected in ((ratio * 1.01, Status.PASS), (ratio * 0.99, Status.FAIL)):
        found = validate(trained[0], tiny_tokenizer, tiny_data, max_ratio=limit)
        assert found.findings[1].status is expected
        assert found.document()["thresholds"][0]["limit"] == limit


def test_where_the_tokenizer_has_seen_all_of_them_it_is_told_and_the_error_is_the_trainings_own(
    trained: tuple[Path, EpochReport], tiny_data: Path, tmp_path: Path
) -> None:
    document = {
        "task": "vqvae",
        "data": {"path": str(tiny_data)},
        "frames": 9,
        "epochs": 1,
        "seed": 8,
        "model": {"hidden_dim": 16, "embedding_dim": 16},
    }
    trainer = Trainer(training_config(document, where="test"))
    train_and_export(trainer, tmp_path / "tokenizer")
    found = validate(trained[0], tmp_path / "tokenizer", tiny_data)
    assert found.samples == 5
    assert "held out of its training" in found.notes[0]
    assert "The tokenizer was trained on them" in found.notes[1]
    assert found.measured is not None
    error = found.measured.trajectories.mse.noa
    assert error == pytest.approx(trained[1].metrics["val/traj"], rel=1e-4)


def test_a_mistake_is_one_message_and_exit_code_2(
    trained: tuple[Path, EpochReport],
    tiny_data: Path,
    tiny_tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def given(noa: Path, vqvae: Path, data: Path) -> list[str | Path]:
        return ["validate", "--noa", noa, "--vqvae", vqvae, "--dataset", data]

    said = refused(capsys, *given(tiny_tokenizer, tiny_tokenizer, tiny_data))
    assert "expected a noa, found a vqvae" in said
    assert "neither a checkpoint" in refused(capsys, *given(tmp_path, tiny_tokenizer, tiny_data))
    assert "nothing.h5" in refused(
        capsys, *given(trained[0], tiny_tokenizer, tmp_path / "nothing.h5")
    )
    (tmp_path / "file").write_text("")
    said = refused(
        capsys,
        *given(trained[0], tiny_tokenizer, tiny_data),
        *("--json", tmp_path / "file" / "v.json"),
    )
    assert "v.json: cannot be written" in said
