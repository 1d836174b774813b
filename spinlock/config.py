"""Strict YAML -> frozen, typed configuration, with every fault of a file told at once.

Files are YAML 1.2, see document.py. Overrides such as `--set loss.lambda_commit=0.5` are merged
before validation, so a file and a flag share one path and one form of error: file, line, key, and
the nearest right word.
"""

import difflib
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML

from spinlock.document import KeyPath, plain
from spinlock.document import Lines as Lines
from spinlock.errors import ConfigError

SECRET = "secret"
"""The type of a pydantic fault whose value must not be shown."""


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, no silent NaN, no true for 1."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, strict=False, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, data: Any) -> Any:
        # Python's bool is an int, and pydantic follows it: `batch_size: true` would be 1.
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        return {
            key: _unlike_numbers(fields[key].annotation, value) if key in fields else value
            for key, value in data.items()
        }


C = TypeVar("C", bound=BaseModel)


def load(model: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """The configuration in the YAML file `path`, with `a.b=value` overrides applied.

    Raises ConfigError naming file, line and key for every fault found.
    """
    document, lines = read(path)
    return parse(model, document, where=str(path), lines=lines, overrides=overrides)


def read(path: Path) -> tuple[dict[str, Any], Lines]:
    """The YAML mapping in `path` as plain Python values, and the line of each key in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        )
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: there is no such file.{hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: cannot be read as text: byte {error.start} is not UTF-8."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    document, lines = plain(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys at the top, found {_kind(document)}."
        )
    return document, lines


def parse(
    model: type[C],
    document: Mapping[str, Any],
    *,
    where: str,
    lines: Lines | None = None,
    overrides: Sequence[str] = (),
    within: str = "",
) -> C:
    """`document` validated as `model`; `where` names its origin in errors.

    `within` is the key under which the document stands in its file, if it is a part of one:
    `lines` and `overrides` are the whole file's then, and are only named, not applied.
    Raises ConfigError listing every fault.
    """
    values = _overrides(overrides)
    merged = (
        document if within else replace(document, {k: value for k, (value, _) in values.items()})
    )
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        flags: dict[KeyPath, str] = {tuple(k.split(".")): flag for k, (_, flag) in values.items()}
        origin = _Origin(where, lines or {}, flags, (within,) if within else ())
        faults = [
            _fault(model, merged, fault, origin)
            for fault in error.errors()
            if not _already_told(fault)
        ]
        told = dict.fromkeys(text for _, text in sorted(faults, key=lambda fault: fault[0]))
        raise ConfigError("\n".join(told)) from None


def dotted(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted path, in order: {"loss": {"a": 1}} -> {"loss.a": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves |= dotted(value, f"{path}.")
        else:
            leaves[path] = value
    return leaves


def replace(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with the leaves at dotted paths replaced; mappings on the way are made."""
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            inner = result.get(head)
            result[head] = replace(inner if isinstance(inner, Mapping) else {}, {rest: value})
        else:
            result[head] = value
    return result


def as_yaml(document: Mapping[str, Any]) -> str:
    """`document` as YAML text, its innermost lists and mappings on one line each."""
    yaml = YAML(typ="rt")
    yaml.default_flow_style = None
    yaml.width = 120
    stream = StringIO()
    yaml.dump(dict(document), stream)
    return stream.getvalue().rstrip()


def known_paths(model: type[BaseModel]) -> list[str]:
    """Every dotted leaf path that `model` accepts."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        paths += [f"{name}.{rest}" for m in inner for rest in known_paths(m)] if inner else [name]
    return list(dict.fromkeys(paths))


def nearest(word: str, words: Sequence[str]) -> str:
    """A sentence that offers the likeliest of `words` for a misspelt one, else lists them."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not close:  # a path whose last part is right but whose sections are missing
        tails = [w for w in words if w.rpartition(".")[2] == word.rpartition(".")[2]]
        close = tails[:1]
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known here: {', '.join(sorted(words))}."


def _overrides(overrides: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Each overridden key with its value and the flag that gave it."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: expected KEY=VALUE, as in --set batch_size=8.")
        value, _ = plain(text, f"--set {override}", numbered=False)
        values[key] = value, f"--set {override}"
    return values


@dataclass(frozen=True)
class _Origin:
    """Where a document's keys come from: file, lines and flags, and the key that it is under."""

    where: str
    lines: Lines
    flags: Mapping[KeyPath, str]
    within: KeyPath


def _fault(
    model: type[BaseModel], document: Mapping[str, Any], fault: Any, origin: _Origin
) -> tuple[int, str]:
    """The line to sort by and the sentence to say."""
    inner = _document_path(document, fault["loc"], missing=fault["type"] == "missing")
    path = (*origin.within, *inner)
    starts = [path[:n] for n in range(len(path), 0, -1)]
    line = next((origin.lines[start] for start in starts if start in origin.lines), None)
    # A flag may have set this very key, a mapping around it, or something inside it.
    flag = next((origin.flags[start] for start in starts if start in origin.flags), None) or next(
        (
            flag
            for key, flag in origin.flags.items()
            if key[: len(path)] == path and path not in origin.lines
        ),
        None,
    )
    key = ".".join(str(part) for part in path)
    if not path:  # two settings that do not go together: any of the flags may be to blame
        place = " with ".join((origin.where, *origin.flags.values()))
    elif flag is not None and fault["type"] == SECRET:
        place = f"--set {key}"
    elif flag is not None:
        place = flag if flag.startswith(f"--set {key}=") else f"{flag}: {key}"
    else:
        place = (origin.where if line is None else f"{origin.where}:{line}") + (
            f": {key}" if key else ""
        )
    return line or 0, f"{place}: {_sentence(model, inner, fault)}"


def _sentence(model: type[BaseModel], path: KeyPath, fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        siblings = _fields_at(model, path[:-1])
        return f"there is no such key. {nearest(str(path[-1]), siblings)}"
    if fault["type"] == "missing":
        return "this key is required and is not there."
    message = fault["msg"].removeprefix("Value error, ").strip().rstrip(".")
    if fault["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message = "expected a mapping of keys"
    given = fault["input"]
    hidden = isinstance(given, Mapping | BaseModel) or fault["type"] == SECRET
    shown = "" if hidden else f" Found {_shown(given)}."
    start = message.split(maxsplit=1)[0]
    if "_" in start or "." in start.rstrip("."):  # a setting's name is written as it is
        return f"{message}.{shown}"
    return f"{message[0].upper()}{message[1:]}.{shown}"


def _already_told(fault: Any) -> bool:
    """Whether a list is called too short because items of it were refused, each with its fault."""
    return (
        fault["type"] == "too_short"
        and isinstance(fault["input"], Sequence)
        and len(fault["input"]) >= fault["ctx"]["min_length"]
    )


def _shown(value: Any) -> str:
    """A value as it would stand in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _document_path(document: Any, location: Sequence[str | int], *, missing: bool) -> KeyPath:
    """pydantic's location without the union tags that it adds and the document does not hold."""
    path: list[str | int] = []
    node = document
    for index, part in enumerate(location):
        held = dict(enumerate(node)) if isinstance(node, list) else node
        if isinstance(held, Mapping) and part in held:
            node = held[part]
        elif not (missing and index == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _fields_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            inner
            for m in models
            if part in m.model_fields
            for inner in _models(m.model_fields[str(part)].annotation)
        ] or models
    return sorted({name for m in models for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configuration models named anywhere in an annotation: unions, lists, Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        return [m for argument in typing.get_args(annotation) for m in _models(argument)]
    return []


@dataclass(frozen=True)
class _Word:
    """true or false where only a number may stand: nothing that pydantic would take for one."""

    value: bool

    def __repr__(self) -> str:
        return str(self.value).lower()


def _unlike_numbers(annotation: Any, value: Any) -> Any:
    """`value` with each bool in it that `annotation` would let pass for a number as a _Word."""
    choices = _alternatives(annotation)
    if isinstance(value, bool):
        numeric = bool not in choices and (int in choices or float in choices)
        return _Word(value) if numeric else value
    for choice in choices:
        origin, arguments = typing.get_origin(choice), typing.get_args(choice)
        if origin in (tuple, list) and isinstance(value, tuple | list):
            endless = origin is list or arguments[-1] is Ellipsis
            rest = itertools.repeat(arguments[0] if endless else None)
            kinds = rest if endless else itertools.chain(arguments, rest)
            value = [_unlike_numbers(kind, item) for item, kind in zip(value, kinds, strict=False)]
        elif origin in (dict, Mapping) and isinstance(value, Mapping):
            value = {key: _unlike_numbers(arguments[1], item) for key, item in value.items()}
    return value


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, however it is written; of any other annotation, itself."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return [c for member in typing.get_args(annotation) for c in _alternatives(member)]
    if isinstance(annotation, TypeVar):
        return _alternatives(annotation.__bound__)
    return [annotation]


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"'{value}'"
