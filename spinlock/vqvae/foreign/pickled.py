"""A pickle read as data: no name in it is ever looked up, and nothing in it is ever called.

`torch.load(weights_only=True)` calls what its allow-list names, and that list is the process's own
and wide: a pickle of 32 bytes makes it allocate 2 GiB, and the prototype's checkpoints need numpy's
and their own classes added to it, whose methods it would then run. Here the pickle's program is
parsed by the standard library's `pickletools` and interpreted with four kinds of value: plain
Python data, a `Global` (a name), a `Storage` (a reference) and a `Call` (a name, its arguments and
the state it was given). What a call would mean is decided afterwards, in `checkpoint.py`.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from spinlock.errors import ArtifactError

Value = Any  # None, bool, int, float, str, bytes, tuple, list, dict, Global, Storage or Call

ORDERED_DICT = "collections.OrderedDict"


@dataclass(frozen=True)
class Global:
    """A module's attribute that the pickle names, not looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The numbers behind tensors: `count` of the type called `kind`, in the member `key`."""

    kind: str
    key: str
    count: int


@dataclass(eq=False)
class Call:
    """What the pickle would have had called, not called."""

    name: str
    args: tuple[Value, ...]
    state: Value = field(default=None)


def read_pickle(data: bytes, allowed: Collection[str], where: str) -> Value:
    """The value that the pickle describes, with `Call`s where it is not plain data.

    `where` names the file in messages. Raises ArtifactError for a global that is not `allowed`,
    for an operation that `torch.save` does not write, and for a damaged pickle.
    """
    machine = _Machine(allowed, where)
    try:
        for operation, argument, _ in pickletools.genops(BytesIO(data)):
            if operation.name == "STOP":
                return machine.stack.pop()
            machine.step(operation.name, argument)
    except (IndexError, KeyError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{where}: its pickle is damaged: {error}.") from None
    raise ArtifactError(f"{where}: its pickle has no end.")


class _Machine:
    """The pickle machine, less everything that looks up, calls or sets an attribute."""

    def __init__(self, allowed: Collection[str], where: str) -> None:
        self.allowed = allowed
        self.where = where
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}

    def step(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO" | "FRAME":
                pass
            case ("BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE") | (
                "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES"
            ):
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                if len(stack) < count:
                    raise IndexError("a tuple of more values than there are")
                stack[-count:] = [tuple(stack[-count:])]
            case "MARK":
                self.marks.append(stack)
                self.stack = []
            case "TUPLE":
                items = self._items()
                self.stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._items()
                self._top(list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set(key, value)
            case "SETITEMS":
                items = self._items()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    self._set(key, value)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self._global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._global(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                args, called = stack.pop(), stack.pop()
                stack.append(self._call(called, args))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise ArtifactError(
                    f"{self.where}: its pickle has the operation {operation}"
                    f"{'' if argument is None else f' ({argument!r:.100})'}, which torch.save "
                    "does not write. Nothing of it was run."
                )

    def _items(self) -> list[Value]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {kind.__name__} is filled that is none")
        return self.stack[-1]

    def _set(self, key: Value, value: Value) -> None:
        # Nested tuples would be keys too; their hash takes time exponential in their depth.
        if type(key) not in (str, int):
            raise ValueError("a dictionary has a key that is neither text nor an integer")
        self._top(dict)[key] = value

    def _global(self, name: str) -> Global:
        if name not in self.allowed:
            raise ArtifactError(
                f"{self.where}: its pickle asks for '{name}', which no checkpoint of the prototype "
                "holds. Nothing of it was run. Do not load this file by other means."
            )
        return Global(name)

    def _call(self, called: Value, args: Value) -> Value:
        if type(called) is not Global or type(args) is not tuple:
            raise ValueError("a call of what is not a name, or with what are not arguments")
        if called.name == ORDERED_DICT and not args:
            return {}
        return Call(called.name, args)

    def _build(self, state: Value) -> None:
        made = self.stack[-1]
        if type(made) is Call and made.state is None:
            made.state = state
        elif type(made) is not dict:  # an OrderedDict's: torch's `_metadata`, versions of modules
            raise ValueError("a state is given to what takes none")

    def _storage(self, reference: Value) -> Storage:
        match reference:
            case ("storage", Global(kind), str(key), str(), int(count)) if count >= 0:
                return Storage(kind, key, count)
        raise ValueError("a persistent id that is not a tensor's storage")
