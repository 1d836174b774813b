"""YAML 1.2 text as plain Python values, with the line at which each of them stands.

Only what JSON can hold, of YAML's core schema: mappings with text keys, lists, text, numbers,
true, false and null. `1e-4` is a number, `no` is a string, a date is text, a key may stand only
once. Anchors, aliases and merge keys (`<<: *base`) are followed. Any other tag is refused: what
it asks for would not be done.
"""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from spinlock.errors import ConfigError

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None
KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]

_CORE = "tag:yaml.org,2002:"
_BOOLEANS = {"true": True, "false": False}


def plain(text: str, where: str, *, numbered: bool = True) -> tuple[Plain, Lines]:
    """The value that `text` describes, and the line of each key and item in it.

    Raises ConfigError that begins with `where`, and with the line if `numbered`.
    """
    try:
        node = YAML(typ="safe", pure=True).compose(StringIO(text))
        reading = _Reading()
        value = None if node is None else reading.value(node, ())
    except _FaultError as fault:
        line, problem = fault.line, fault.problem
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character {text[error.position]!r} may not stand in YAML"
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        problem = (error.problem or "not valid YAML").splitlines()[0]
    except YAMLError as error:
        line, problem = None, str(error).splitlines()[0]
    except RecursionError:
        line, problem = None, "lists or mappings are nested too deeply to be read"
    else:
        return value, reading.lines
    place = where if line is None or not numbered else f"{where}:{line}"
    raise ConfigError(f"{place}: {problem}.") from None


class _FaultError(Exception):
    """What is wrong with a node, and at which line."""

    def __init__(self, node: Node, problem: str) -> None:
        super().__init__(problem)
        self.line, self.problem = node.start_mark.line + 1, problem


class _Reading:
    """One walk through a document's nodes."""

    def __init__(self) -> None:
        self.lines: Lines = {}
        self._open: list[Node] = []  # the nodes around the present one

    def value(self, node: Node, path: KeyPath) -> Plain:
        if any(node is around for around in self._open):
            raise _FaultError(node, "this mapping or list contains itself")
        self._open.append(node)
        try:
            match node:
                case MappingNode():
                    return self._mapping(node, path)
                case SequenceNode():
                    _expect_tag(node, "seq")
                    return [self._child(item, (*path, i)) for i, item in enumerate(node.value)]
                case ScalarNode():
                    return _scalar(node)
            raise AssertionError(f"YAML has no {type(node).__name__}")
        finally:
            self._open.pop()

    def _child(self, node: Node, path: KeyPath, line: int | None = None) -> Plain:
        self.lines[path] = node.start_mark.line + 1 if line is None else line
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> Plain:
        return {
            name: self._child(value, (*path, name), key.start_mark.line + 1)
            for name, (key, value) in self._entries(node).items()
        }

    def _entries(self, node: MappingNode) -> dict[str, tuple[Node, Node]]:
        """Key and value nodes by name; what is merged in gives way to what stands there."""
        _expect_tag(node, "map")
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            if str(key.tag) == f"{_CORE}merge":
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(source, MappingNode):
                        raise _FaultError(key, "'<<' merges a mapping or a list of mappings")
                    if source is node or any(source is around for around in self._open):
                        raise _FaultError(key, "this mapping is merged into itself")
                    merged = self._entries(source) | merged  # the first of several wins
                continue
            if not isinstance(key, ScalarNode):
                raise _FaultError(key, "a key must be a word, not a list or a mapping")
            name = str(key.value)
            if name in own:
                first = own[name][0].start_mark.line + 1
                raise _FaultError(key, f"the key '{name}' stands already at line {first}")
            own[name] = key, value
        return merged | own


def _scalar(node: ScalarNode) -> Plain:
    text, tag = str(node.value), str(node.tag).removeprefix(_CORE)
    try:
        match tag:
            case "str" | "timestamp":
                return text
            case "null":
                return None
            case "bool":
                return _BOOLEANS[text.lower()]
            case "int":
                return _integer(text.replace("_", "").lower())
            case "float":
                words = text.replace("_", "").lower()
                return float(words.replace(".inf", "inf").replace(".nan", "nan"))
    except (ValueError, KeyError):
        raise _FaultError(node, f"{text!r} is no YAML 1.2 {tag}") from None
    raise _unknown(node)


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    # int(.., 0) knows 0x, 0o and 0b, but refuses 017, which is seventeen in YAML 1.2.
    return int(text, 0) if digits[:2] in ("0x", "0o", "0b") else int(text)


def _expect_tag(node: Node, name: str) -> None:
    if str(node.tag) != _CORE + name:
        raise _unknown(node)


def _unknown(node: Node) -> _FaultError:
    shown = str(node.tag).replace(_CORE, "!!")
    return _FaultError(node, f"the YAML tag {shown} is not known here; leave it out")
