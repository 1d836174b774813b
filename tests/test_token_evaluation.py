"""Tokens are judged by numbers with known answers, ties included."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from spinlock.artifact import load as load_artifact
from spinlock.cli import commands, run
from spinlock.data import open_dataset
from spinlock.data.generate import GenerateConfig, generate
from spinlock.errors import DatasetError
from spinlock.evaluation.discriminability import (
    Space,
    chosen,
    neighbours,
    prediction,
    retrieval,
    spaces,
)
from spinlock.evaluation.judge import codebooks, judge
from spinlock.evaluation.tokens import Tokens, encode_dataset


def codes_of(count: int, width: int = 5, size: int = 6, seed: int = 0) -> ndarray:
    return np.random.default_rng(seed).integers(0, size, (count, width))


def only(codes: ndarray) -> dict[str, Space]:
    return {"tokens": Space(codes, "hamming")}


# Discriminability


def test_retrieval_is_perfect_when_operators_have_tokens_of_their_own() -> None:
    operators = np.repeat(np.arange(8), 3)
    found = retrieval(only(operators[:, None] + np.zeros((1, 5), int)), operators)
    assert found is not None
    assert found.scores["tokens"]["accuracy"] == 1.0


def test_retrieval_among_equal_tokens_is_exactly_a_blind_guess() -> None:
    operators = np.repeat(np.arange(8), 3)
    found = retrieval(only(np.zeros((24, 5), int)), operators)
    assert found is not None
    assert found.scores["tokens"]["accuracy"] == pytest.approx(2 / 23)
    assert "a blind guess scores 0.08696" in found.sentence


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_retrieval_does_not_depend_on_the_order_of_the_samples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    operators = generator.integers(0, 6, 30)
    codes = generator.integers(0, 2, (30, 4))  # many ties
    order = generator.permutation(30)
    one, other = (
        retrieval(only(c), o) for c, o in ((codes, operators), (codes[order], operators[order]))
    )
    assert one is not None
    assert other is not None
    assert one.scores["tokens"]["accuracy"] == pytest.approx(other.scores["tokens"]["accuracy"])
    assert one.sentence == other.sentence


def test_an_operator_with_one_sample_is_not_asked_for_but_may_be_mistaken() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 1]])
    found = retrieval(only(codes), np.array([0, 0, 1, 2]))
    assert found is not None
    assert found.scores["tokens"]["accuracy"] == pytest.approx(0.5)
    assert "2 samples" in found.sentence
    assert retrieval(only(codes), np.arange(4)) is None


def test_parameters_that_the_tokens_spell_out_are_predicted_and_others_are_not() -> None:
    generator = np.random.default_rng(3)
    level = np.repeat(np.arange(10), 40)
    choice = generator.integers(0, 3, 400)
    codes = np.stack([level, level, level, choice, choice], axis=1)
    parameters = np.column_stack(
        [level / 10, generator.random(400), np.eye(3)[choice], np.full(400, 0.5)]
    )
    names = ["told", "untold", "kind=a", "kind=b", "kind=c", "constant"]
    operators = np.arange(400)
    measured = spaces(codes, codes.astype(float), codes.astype(float))
    found = prediction(measured, operators, parameters, names)
    assert found is not None
    for space in ("tokens", "decoded tokens", "features"):
        assert found.scores[space]["told"] == pytest.approx(1.0, abs=0.02)
        assert found.scores[space]["kind="] == pytest.approx(1.0, abs=0.02)
        assert found.scores[space]["untold"] < 0.1
    assert [*found.scores["tokens"]] == ["told", "untold", "kind="]
    assert found.scores["shuffled tokens"]["told"] < 0.1
    assert found.scores["shuffled tokens"]["kind="] < 0.5


def test_an_operator_never_answers_for_itself() -> None:
    # Every item's twin has its parameter, and is of the same operator: no one else knows it.
    operators = np.repeat(np.arange(20), 2)
    parameters = np.random.default_rng(0).permutation(20)[operators, None].astype(float)
    found = prediction(only(operators[:, None] * 7), operators, parameters, ["p"])
    assert found is not None
    assert found.scores["tokens"]["p"] < 0.2


def test_nothing_is_predicted_without_parameters_that_vary() -> None:
    codes = codes_of(20)
    assert prediction(only(codes), np.arange(20), np.ones((20, 2)), ["a", "b"]) is None
    assert prediction(only(codes), np.arange(20), np.empty((20, 0)), []) is None
    assert prediction(only(codes), np.zeros(20, int), np.random.rand(20, 1), ["a"]) is None


def test_the_features_are_their_own_neighbours_and_noise_is_not() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    measured = spaces(codes_of(200), points, points)
    found = neighbours(measured)
    assert found is not None
    assert found.scores["features"]["10 nearest"] == 1.0
    assert found.scores["decoded tokens"]["10 nearest"] == 1.0
    assert found.scores["tokens"]["10 nearest"] == pytest.approx(10 / 199, abs=0.03)
    assert neighbours(spaces(codes_of(2), points[:2], points[:2])) is None


def test_too_many_samples_are_thinned_to_whole_operators() -> None:
    operators = np.repeat(np.arange(100), 4)
    rows = chosen(operators, most=50)
    assert len(rows) == 48
    assert set(np.bincount(operators[rows])) == {0, 4}
    assert (chosen(operators, most=50) == rows).all()
    assert len(chosen(operators)) == 400


# The whole report, on real tokens


@pytest.fixture(scope="module")
def tokens(tiny_data: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.h5"
    encode_dataset(tiny_data, tiny_tokenizer, path)
    return path


def test_errors_of_parts_and_categories_add_up(tokens: Path, tiny_data: Path) -> None:
    loaded = Tokens.load(tokens)
    report = judge(loaded, tiny_data)
    error = report.reconstruction
    assert [*error] == ["all", "trained on", "held out"]
    held_out = round(12 * 0.2)
    assert error["all"] * 12 == pytest.approx(
        error["trained on"] * (12 - held_out) + error["held out"] * held_out
    )
    features = sum(category.features for category in report.categories)
    assert features == len(loaded.tokenizer.standardizer.names)
    weighted = sum(category.error * category.features for category in report.categories)
    assert weighted / features == pytest.approx(error["all"])


def test_the_held_out_error_is_the_one_that_training_reported(
    tokens: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    reported = load_artifact(tiny_tokenizer, "vqvae").metrics["val/reconstruction"]
    found = judge(Tokens.load(tokens), tiny_data).reconstruction["held out"]
    assert found == pytest.approx(reported, rel=1e-5)


def test_bits_are_those_of_the_codebooks(tokens: Path, tiny_data: Path) -> None:
    loaded = Tokens.load(tokens)
    report = judge(loaded, tiny_data)
    sizes = loaded.tokenizer.vqvae.bank.sizes
    assert report.compression.feature_bits == 32 * len(loaded.tokenizer.standardizer.names)
    assert report.compression.fixed_bits == sum(math.ceil(math.log2(size)) for size in sizes)
    assert 0 <= report.compression.entropy_bits <= sum(map(math.log2, sizes))
    assert report.distinct == len({tuple(row) for row in loaded.codes.tolist()})


def test_entropy_is_the_logarithm_of_the_codes_evenly_used(tokens: Path) -> None:
    loaded = Tokens.load(tokens)
    for used in (1, 2):
        codes = torch.arange(12)[:, None].expand(-1, loaded.codes.shape[1]) % used
        same = Tokens(codes, loaded.samples, 1, loaded.tokenizer, {}, "", "")
        for book in codebooks(same):
            assert book.used == used
            assert book.entropy == pytest.approx(math.log2(used))
            assert book.perplexity == pytest.approx(used)
            assert book.utilization == used / book.codes


def test_what_the_data_does_not_allow_is_said(tokens: Path, tiny_data: Path) -> None:
    report = judge(Tokens.load(tokens), tiny_data)
    assert [measure.measure for measure in report.discriminability] == ["neighbours", "prediction"]
    assert report.unmeasured == (
        "retrieval: every operator has one sample; encode several windows",
    )


def test_windows_of_one_trajectory_are_samples_of_one_operator(
    tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    document = {
        "operators": 5,
        "grid": 16,
        "frames": 12,
        "domain": {
            "kind": "cno",
            "dt": 0.1,
            "num_layers": {"kind": "integer", "low": 2, "high": 2},
        },
    }
    longer = tmp_path / "longer.h5"
    generate(GenerateConfig.model_validate(document), longer)
    encoded = encode_dataset(longer, tiny_tokenizer, tmp_path / "tokens.h5", windows=3)
    report = judge(encoded, longer)
    by_name = {measure.measure: measure for measure in report.discriminability}
    assert report.samples == 15
    assert "15 samples whose nearest other one" in by_name["retrieval"].sentence
    assert "5 operators" in by_name["retrieval"].sentence


def test_other_data_than_was_encoded_is_refused(tokens: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    document = {"operators": 2, "grid": 16, "frames": 9, "domain": {"kind": "cno"}}
    generate(GenerateConfig.model_validate(document), other)
    with pytest.raises(DatasetError, match="not what the tokens were made from"):
        judge(Tokens.load(tokens), other)


def test_the_commands_encode_and_judge_operators_with_realizations(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    data, tokens, out = tmp_path / "data.h5", tmp_path / "tokens.h5", tmp_path / "report.json"
    layers = {"kind": "integer", "low": 2, "high": 2}
    domain = {"kind": "cno", "dt": 0.1, "realizations": 2, "num_layers": layers}
    document = {"operators": 4, "grid": 16, "frames": 9, "domain": domain}
    generate(GenerateConfig.model_validate(document), data)
    made = spinlock(
        *("encode-to-tokens", "--dataset", data),
        *("--vqvae-model", tiny_tokenizer, "--output", tokens),
    )
    assert "8 samples of" in made
    said = spinlock("evaluate-tokens", tokens, "--dataset", data, "--json", out)
    report = json.loads(out.read_text())
    by_name = {measure["measure"]: measure for measure in report["discriminability"]}
    assert {"neighbours", "retrieval"} <= {*by_name}
    assert by_name["retrieval"]["scores"]["features"]["accuracy"] > 0.5
    assert "retrieval" in said
    assert "blind guess" in said
    assert report["samples"] == open_dataset(data).info.items == 8
    assert list(report["reconstruction_error"]) == ["all"]  # not the tokenizer's own data


@pytest.mark.parametrize("place", ["", "tokens.h5/report.json"])
def test_numbers_that_cannot_be_written_are_one_message(
    tokens: Path, tiny_data: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tokens.parent / place
    said = refused(capsys, "evaluate-tokens", tokens, "--dataset", tiny_data, "--json", there)
    assert said[-1].startswith(f"Error: {there}: cannot be written: ")


def test_a_mistake_is_one_message_without_an_idle_bar(
    tokens: Path, tiny_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("--dataset", tmp_path / "nowhere.h5")
    encode = ("--vqvae-model", tiny_tokenizer, "--output", tmp_path / "new.h5")
    (line,) = refused(capsys, "encode-to-tokens", *nowhere, *encode)
    assert line.startswith("Error: ")
    (line,) = refused(capsys, "evaluate-tokens", tokens, *nowhere)
    assert line.startswith("Error: ")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    """The lines of what is said to a user's mistake."""
    with pytest.raises(SystemExit) as ended:
        run(lambda: commands()([*map(str, arguments)], standalone_mode=False))
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


def spinlock(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "spinlock.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
