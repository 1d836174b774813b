"""A checkpoint is read as data: whatever else its pickle asks for is refused, and is not run."""

import contextlib
import functools
import importlib
import operator
import os
import pickle
import random
import re
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import archive, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign import read_checkpoint

# What such checkpoints hold comes back as it was


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor | np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert (found == expected).all()
    elif isinstance(expected, dict):
        assert [*found] == [*expected]
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves_comes_back_to_the_bit(tmp_path: Path, protocol: int) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "views": [whole, whole[1:3, ::2], whole.T, whole[0, 0], torch.empty(0, 3)],
        "types": [
            torch.tensor([0, 1, 3]).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8)
        ],
        "bools": torch.tensor([True, False]),
        "state": OrderedDict(weight=torch.nn.Linear(2, 3).weight.detach()),
        "numpy": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array([True])],
        "python": {"a": None, 1: (True, -5, 2**40, 1.5, "ü"), "e": [], "t": (), "d": {}},
        "random": (random.getstate(), np.random.RandomState(3).get_state(), torch.get_rng_state()),
    }
    path = saved(tmp_path / "file.pt", content, pickle_protocol=protocol)
    found = read_checkpoint(path)
    assert_same(found, content | {"state": dict(content["state"])})
    assert found["views"][0].data_ptr() == found["views"][1].data_ptr() - 6 * 4  # stored once


def test_modules_parameters_paths_and_numpy_scalars_become_plain(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    content = {
        "state": layer.state_dict(),  # with `_metadata`, which is left out
        "parameter": layer.weight,
        "path": PurePosixPath("/a") / "b",
        "here": Path("a") / "b",
        "scalars": [np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True)],
    }
    with pytest.raises(ArtifactError, match=r"asks for 'pathlib\.PurePosixPath'"):
        read_checkpoint(saved(tmp_path / "pure.pt", content))
    del content["path"]
    found = read_checkpoint(saved(tmp_path / "file.pt", content))
    assert torch.equal(found["state"]["weight"], layer.weight)
    assert torch.equal(found["parameter"], layer.weight)
    assert not found["parameter"].requires_grad
    assert found["here"] == "a/b"
    assert found["scalars"] == [0.1, float(np.float32(0.1)), 3, True]
    assert [type(x) for x in found["scalars"]] == [float, float, int, bool]


# What would run something


class Runs:
    """An object whose pickle is a call, of a function or of what another call gives."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __call__(self) -> None:
        """pickle wants what is called to be callable; it is never called before it is saved."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def in_array(value: object) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = value
    return array


HOSTILE: dict[str, Callable[[str], object]] = {
    "os.system": lambda made: Runs(os.system, f"touch {made}"),
    "eval": lambda made: Runs(eval, f"open({made!r}, 'w')"),
    "exec": lambda made: Runs(exec, f"open({made!r}, 'w')"),
    "open": lambda made: Runs(open, made, "w"),
    "subprocess": lambda made: Runs(subprocess.check_call, ["touch", made]),
    "getattr of an import": lambda made: Runs(
        Runs(getattr, Runs(importlib.import_module, "os"), "system"), f"touch {made}"
    ),
    "methodcaller": lambda made: Runs(
        operator.methodcaller("system", f"touch {made}"), Runs(importlib.import_module, "os")
    ),
    "partial": lambda made: Runs(functools.partial(os.system, f"touch {made}")),
    "torch.save": lambda made: Runs(torch.save, 0, made),
    "numpy.save": lambda made: Runs(np.save, made, 0),
    "a pickle in a pickle": lambda made: Runs(pickle.loads, pickle.dumps(Runs(open, made, "w"))),
    "an object in an array": lambda made: in_array(Runs(open, made, "w")),
    "an argument of a tensor": lambda made: Runs(
        torch._utils._rebuild_tensor_v2, Runs(open, made, "w"), 0, (), (), False, OrderedDict()
    ),
    "an argument of a path": lambda made: Runs(PosixPath, Runs(open, made, "w")),
    "a key": lambda made: {Runs(open, made, "w"): 1},
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_run_when_unpickled_does_not(tmp_path: Path, kind: str, protocol: int) -> None:
    made = tmp_path / "ran.npy"
    content = {"model_state_dict": {}, "config": HOSTILE[kind](str(made))}
    path = saved(tmp_path / "file.pt", content, pickle_protocol=protocol)
    with pytest.raises(ArtifactError, match=r"its pickle asks for '\S+'.* Nothing of it was run"):
        read_checkpoint(path)
    assert not made.exists()

    with contextlib.suppress(TypeError, AttributeError):  # after it ran
        torch.load(path, weights_only=False)
    assert made.exists(), "the file was harmless, and the test proves nothing"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "__builtin__.eval"),
        (getattr, "__builtin__.getattr"),
        (functools.partial, "functools.partial"),
        (torch.hub.load, "torch.hub.load"),
        (torch._utils._rebuild_wrapper_subclass, "torch._utils._rebuild_wrapper_subclass"),
        (bytearray, "__builtin__.bytearray"),
    ],
)
def test_the_refusal_names_what_was_asked_for(
    tmp_path: Path, function: Callable[..., Any], name: str
) -> None:
    path = saved(tmp_path / "file.pt", {"config": Runs(function, "x")})
    with pytest.raises(ArtifactError, match=rf"file\.pt: its pickle asks for '{re.escape(name)}'"):
        read_checkpoint(path)


STATS = b"cspinlock.encoding.normalization\nNormalizationStats\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"(cos\nsystem\nS'x'\no.", "asks for 'os.system'"),
        (b"(ios\nsystem\n.", "operation INST .'os system'."),
        (b"\x82\x01.", "operation EXT1"),
        (b"\x80\x05\x97.", "operation NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "operation EMPTY_SET"),
        (b"Pos.system\n.", "operation PERSID"),
        (STATS + b"}b.", "a state is given to what takes none"),  # attributes of the class
        (STATS + b")\x81}b}b.", "a state is given to what takes none|statistics without"),
        (STATS + b")\x81.", "statistics without fields"),
        (STATS + b"K\x01\x85\x81}b.", "statistics without fields"),
        (STATS + b".", "a NormalizationStats where a value should be|NormalizationStats where"),
        (STATS + b")R)R.", "a call of what is not a name"),
        (b"X\x01\x00\x00\x00a)R.", "a call of what is not a name"),
        (REBUILD + b"]R.", "with what are not arguments"),
        (REBUILD + b")R.", "_rebuild_tensor_v2 that cannot be"),
        (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage where a value"),
        (b"cnumpy\nndarray\n)R.", "numpy.ndarray where a value"),
        (
            b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNtb.",
            "type 'O8'",
        ),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "latin1"),
        (b"cpathlib\nPosixPath\n]\x85R.", "PosixPath that cannot be"),
        (b"}))s.", "a key that is neither text nor an integer"),
        (b"}]a.", "a list is filled that is none"),
        (b"]K\x01K\x01s.", "a dict is filled that is none"),
        (b"]q\x00h\x00a.", "contain themselves"),
        (b"]" * 5000 + b"a" * 4999 + b".", "nested too deep"),
        (b"h\x07.", "pickle is damaged"),
        (b"K\x01\x87.", "pickle is damaged"),
        (b"t.", "pickle is damaged"),
        (b".", "pickle is damaged"),
        (b"}", "no end|pickle is damaged"),
        (b"", "no end|pickle is damaged"),
        (b"X\xff\xff\xff\x7fa.", "pickle is damaged"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fa.", "pickle is damaged|operation"),
        (b"\xff.", "pickle is damaged"),
        (b"]r\xff\xff\xff\x7f.", "holds a list, not a dictionary"),  # C's memo: 16 GiB
        (b"K\x01Q.", "not a tensor's storage"),
    ],
)
def test_a_crafted_program_is_refused(tmp_path: Path, program: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(archive(tmp_path / "file.pt", program))


def test_shared_parts_are_read_once(tmp_path: Path) -> None:
    """2^60 leaves, if every path to them were walked."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    found = read_checkpoint(
        archive(tmp_path / "file.pt", b"}X\x01\x00\x00\x00a)" + doubled + b"s.")
    )
    assert found["a"][0] is found["a"][1]


# Damage


def small(path: Path) -> bytes:
    """A checkpoint with everything in it that is allowed."""
    content = {
        "state": torch.nn.Linear(2, 3).state_dict(),
        "numbers": [np.arange(3.0), np.float64(1.5), Path("a/b"), 2**40, "text", None, True],
    }
    return saved(path, content).read_bytes()


@given(data=st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_damage_is_an_error_of_ours_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.pt"
    raw = bytearray(small(path))
    if data.draw(st.booleans(), label="truncated"):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(ArtifactError):
        assert isinstance(read_checkpoint(path), dict)


@given(data=st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_damage_to_the_pickle_alone_is_an_error_of_ours(
    tmp_path: Path, data: st.DataObject
) -> None:
    """The archive's checksums hide most damage; here they are made anew."""
    small(tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    pickled = bytearray(members["whole/data.pkl"])
    for _ in range(data.draw(st.integers(1, 6))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as opened:
        for name, content in (members | {"whole/data.pkl": bytes(pickled)}).items():
            opened.writestr(name, content)
    with contextlib.suppress(ArtifactError):
        assert isinstance(read_checkpoint(tmp_path / "file.pt"), dict)
