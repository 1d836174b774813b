"""A configuration file answers with every fault at once: file, line, key, nearest right word."""

from pathlib import Path

import pytest
from pydantic import Field

from spinlock.config import (
    Config,
    as_yaml,
    dotted,
    known_paths,
    load,
    nearest,
    parse,
    read,
    replace,
)
from spinlock.errors import ConfigError


class Loss(Config):
    lambda_commit: float = Field(0.5, ge=0)
    steps: tuple[int, ...] = (3,)


class Run(Config):
    epochs: int
    lr: float = 1e-3
    name: str = "run"
    loss: Loss = Loss()


def write(path: Path, text: str) -> Path:
    file = path / "run.yaml"
    file.write_text(text)
    return file


def faults(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Run, file, overrides)
    return str(caught.value).splitlines()


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    config = load(Run, write(tmp_path, "epochs: 3\nlr: 1e-4\nname: no\n"))
    assert config == Run(epochs=3, lr=1e-4, name="no")


def test_every_fault_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: three\nloss:\n  lambda_comit: 1\n  lambda_commit: -1\n")
    assert faults(file) == [
        f"{file}:1: epochs: Input should be a valid integer, unable to parse string as an "
        "integer. Found 'three'.",
        f"{file}:3: loss.lambda_comit: there is no such key. Did you mean 'lambda_commit'?",
        f"{file}:4: loss.lambda_commit: Input should be greater than or equal to 0. Found -1.",
    ]


def test_a_missing_key_is_told_where_its_section_begins(tmp_path: Path) -> None:
    file = write(tmp_path, "lr: 1\n")
    assert faults(file) == [f"{file}: epochs: this key is required and is not there."]


def test_an_override_shares_the_form_of_the_error_and_names_itself(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: 3\nloss:\n  lambda_commit: 1\n")
    assert load(Run, file, ["loss.lambda_commit=2e-1"]).loss.lambda_commit == 0.2
    assert faults(file, "loss.lambda_comit=2") == [
        "--set loss.lambda_comit=2: there is no such key. Did you mean 'lambda_commit'?"
    ]
    assert faults(file, "loss.lambda_commit=-2") == [
        "--set loss.lambda_commit=-2: Input should be greater than or equal to 0. Found -2."
    ]


@pytest.mark.parametrize("override", ["epochs", "=3"])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    assert "expected KEY=VALUE" in faults(write(tmp_path, "epochs: 3\n"), override)[0]


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: 3\nepochs: 4\n")
    assert faults(file)[0].startswith(f"{file}:2: ")


def test_a_file_that_is_not_there_offers_its_neighbour(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: 3\n")
    missing = tmp_path / "ruin.yaml"
    assert faults(missing) == [f"{missing}: there is no such file. Did you mean {file}?"]


@pytest.mark.parametrize(
    ("text", "what"), [("", "nothing"), ("- 1\n", "CommentedSeq"), ("a: [", "")]
)
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, what: str) -> None:
    file = write(tmp_path, text)
    said = faults(file)[0]
    assert said.startswith(str(file))
    assert what in said


def test_yaml_aliases_and_lists_become_plain_values(tmp_path: Path) -> None:
    document, lines = read(write(tmp_path, "a: &x [1, 2.5, yes]\nb: *x\n"))
    assert document == {"a": [1, 2.5, "yes"], "b": [1, 2.5, "yes"]}
    assert type(document["a"][1]) is float
    assert lines["b",] == 2


def test_dotted_and_replace_undo_each_other() -> None:
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert dotted(nested) == {"a": 1, "b.c": 2, "b.d.e": 3}
    assert replace({}, dotted(nested)) == nested
    assert replace(nested, {"b.d.e": 4}) == {"a": 1, "b": {"c": 2, "d": {"e": 4}}}
    assert nested["b"] == {"c": 2, "d": {"e": 3}}


def test_known_paths_are_the_leaves() -> None:
    assert known_paths(Run) == ["epochs", "lr", "name", "loss.lambda_commit", "loss.steps"]


def test_a_path_without_its_section_is_offered_the_whole_path() -> None:
    assert nearest("lambda_commit", known_paths(Run)) == "Did you mean 'loss.lambda_commit'?"


def test_a_part_of_a_file_is_named_by_its_whole_path(tmp_path: Path) -> None:
    file = write(tmp_path, "training:\n  epochs: 3\n  loss:\n    lambda_comit: 1\n")
    document, lines = read(file)
    with pytest.raises(ConfigError) as caught:
        parse(
            Run,
            replace(document["training"], {"epochs": -1.5}),
            where=str(file),
            lines=lines,
            overrides=["training.epochs=-1.5"],
            within="training",
        )
    assert str(caught.value).splitlines() == [
        "--set training.epochs=-1.5: Input should be a valid integer, got a number with a "
        "fractional part. Found -1.5.",
        f"{file}:4: training.loss.lambda_comit: there is no such key. Did you mean "
        "'lambda_commit'?",
    ]


def test_yaml_text_is_read_back_as_it_was(tmp_path: Path) -> None:
    document = {"b": 1, "a": {"list": [1, 2.5, None], "text": "no", "small": 1e-9, "empty": {}}}
    assert read(write(tmp_path, as_yaml(document)))[0] == document
