"""A configuration file answers with every fault at once: file, line, key, nearest right word."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

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
    steps: tuple[int, ...] = Field((3,), min_length=1)


class Run(Config):
    epochs: int
    lr: float = 1e-3
    name: str = "run"
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _sound(self) -> "Run":
        if self.name == "slow" and self.lr > 1:
            raise ValueError("loss.lambda_commit is too slow for this")
        return self


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
    ("text", "what"), [("", "nothing"), ("- 1\n", "found a list"), ("word", "'word'"), ("a: [", "")]
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


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("epochs: 3\nname: \x00\n", 2, r"the character '\x00' may not stand in YAML"),
        ("epochs: 3\nname: \x07\n", 2, r"the character '\x07' may not stand in YAML"),
        ("epochs: 3\nloss: !!python/object:os.system {}\n", 2, "!!python/object:os.system"),
        ("epochs: !fast 3\n", 1, "the YAML tag !fast is not known here"),
        ("epochs: !!int three\n", 1, "'three' is no YAML 1.2 int"),
        ("epochs: 0x_\n", 1, "'0x_' is no YAML 1.2 int"),
        ("epochs: !!set {a}\n", 1, "!!set is not known"),
        ("epochs: 3\nloss: &x {steps: *x}\n", 2, "contains itself"),
        ("epochs: 3\nloss: &x\n  <<: *x\n", 3, "merged into itself"),
        ("epochs: 3\n<<: 4\n", 2, "'<<' merges a mapping"),
        ("? [1, 2]\n: 3\n", 1, "a key must be a word"),
        ("epochs: 3\nepochs: 4\n", 2, "the key 'epochs' stands already at line 1"),
        ("%YAML 1.1\n---\nepochs: yes\n", 3, "'yes' is no YAML 1.2 bool"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused_at_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    file = write(tmp_path, text)
    (said,) = faults(file)
    assert said.startswith(f"{file}:{line}: ")
    assert words in said


def test_lists_nested_beyond_reason_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in faults(write(tmp_path, "epochs: " + "[" * 3000))[0]
    file = tmp_path / "run.yaml"
    file.write_bytes(b"epochs: \xff\n")
    assert faults(file) == [f"{file}: cannot be read as text: byte 8 is not UTF-8."]


@pytest.mark.parametrize("value", ["\x00", "!!python/object:x {}", "*there", "["])
def test_a_flag_that_is_not_yaml_is_refused_under_its_name(tmp_path: Path, value: str) -> None:
    file = write(tmp_path, "epochs: 3\n")
    assert faults(file, f"loss={value}")[0].startswith(f"--set loss={value}: ")


def test_a_merged_mapping_gives_way_to_the_keys_beside_it(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd: {<<: *b}\n"
    document, lines = read(write(tmp_path, text))
    assert document["c"] == {"x": 3, "y": 1, "z": 2}
    assert document["d"] == {"y": 2, "z": 2}
    assert [lines["c", key] for key in "xyz"] == [5, 1, 2]


def test_scalars_are_those_of_the_core_schema(tmp_path: Path) -> None:
    text = "a: [017, 0o17, 0xF, 1_000, +1.5e3, .inf, ~, 2020-13-45, 1:30, on, True, !!str 3]\n"
    values = [17, 15, 15, 1000, 1500.0, math.inf, None, "2020-13-45", "1:30", "on", True, "3"]
    document, _ = read(write(tmp_path, text))
    assert document == {"a": values}
    assert [type(v) for v in document["a"]] == [type(v) for v in values]


class Switches(Config):
    count: int = 1
    share: float | None = None
    size: int | Literal["auto"] = "auto"
    pair: tuple[float, int] = (1.0, 1)
    many: tuple[Annotated[int, Field(ge=0)], ...] = ()
    by_name: dict[str, float] = Field(default_factory=dict)
    on: bool = False
    anything: tuple[bool | int | str, ...] = ()


@pytest.mark.parametrize(
    "document",
    [
        {"count": True},
        {"share": False},
        {"size": True},
        {"pair": [0.5, True]},
        {"many": [1, True]},
        {"by_name": {"a": 1.0, "b": True}},
    ],
)
def test_true_is_no_number(document: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"should be a valid (number|integer)\. Found (tru|fals)e"
    ):
        parse(Switches, document, where="here")


def test_true_for_a_number_is_told_with_its_place_and_with_every_other_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Switches, {"count": True, "many": [1, False], "on": "word"}, where="here")
    assert str(caught.value).splitlines() == [
        "here: count: Input should be a valid integer. Found true.",
        "here: many.1: Input should be a valid integer. Found false.",
        "here: on: Input should be a valid boolean, unable to interpret input. Found 'word'.",
    ]


def test_true_is_true_where_it_may_stand() -> None:
    made = parse(Switches, {"on": True, "anything": [True, 1, "a"]}, where="here")
    assert (made.on, made.anything) == (True, (True, 1, "a"))


def test_a_refused_item_does_not_make_its_list_too_short(tmp_path: Path) -> None:
    (said,) = faults(write(tmp_path, "epochs: 3\nloss: {steps: [x]}\n"))
    assert "loss.steps.0: " in said
    (said,) = faults(write(tmp_path, "epochs: 3\nloss: {steps: []}\n"))
    assert "at least 1 item" in said


def test_a_fault_of_the_whole_names_the_file_and_the_flags_and_keeps_names_as_they_are(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, "epochs: 3\nname: slow\nlr: 2\n")
    sentence = "loss.lambda_commit is too slow for this."
    assert faults(file) == [f"{file}: {sentence}"]
    assert faults(file, "epochs=4") == [f"{file} with --set epochs=4: {sentence}"]


def test_a_section_that_is_no_mapping_is_told_without_the_names_of_classes(tmp_path: Path) -> None:
    file = write(tmp_path, "epochs: 3\nloss:\n")
    assert faults(file) == [f"{file}:2: loss: Expected a mapping of keys. Found null."]


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
