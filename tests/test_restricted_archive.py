"""A checkpoint's archive and tensors are no larger, and reach no further, than they are."""

import functools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import SIXTEEN, archive, saved, tensor

from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign import read_checkpoint

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return functools.partial(archive, tmp_path / "file.pt")


# What would reach outside a storage


def test_a_crafted_tensor_within_its_storage_is_read(write: Writer) -> None:
    found = read_checkpoint(write(tensor(), SIXTEEN))
    assert found["t"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": b"K\x05\x85"}, "outside its storage of 4 numbers"),
        ({"size": b"J\x00\x00\x00\x40\x85"}, "outside its storage of 4 numbers"),
        ({"offset": 1}, "outside its storage of 4 numbers"),
        ({"offset": -1}, "sizes are not counts"),
        ({"stride": b"K\x02\x85"}, "outside its storage of 4 numbers"),
        ({"stride": b"J\xff\xff\xff\xff\x85"}, "sizes are not counts"),
        ({"stride": b"K\x00\x85", "size": b"J\x00\x00\x00\x40\x85"}, "outside its storage"),
        ({"stride": b")"}, "other strides than sizes"),
        ({"size": b"G" + b"\x40" * 8 + b"\x85"}, "sizes are not counts"),
        ({"size": b"N"}, "_rebuild_tensor_v2 that cannot be"),
        (
            {
                "size": b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86",
                "stride": b"K\x01K\x01\x86",
                "offset": 0,
            },
            None,
        ),
        ({"count": 5}, "should have 5 numbers of 4 bytes, but has 16 bytes"),
        ({"count": 2**30}, "but has 16 bytes"),
        ({"count": -4}, "not a tensor's storage"),
        ({"kind": "DoubleStorage"}, "should have 4 numbers of 8 bytes"),
        ({"kind": "UntypedStorage"}, "asks for 'torch.UntypedStorage'"),
        ({"key": "1"}, "a member 'a/data/1' that it does not have"),
        ({"key": "../../../../etc/passwd"}, "that it does not have"),
        ({"key": "/etc/passwd"}, "that it does not have"),
    ],
)
def test_a_tensor_reaches_no_further_than_its_storage(
    write: Writer, changes: dict[str, Any], message: str | None
) -> None:
    path = write(tensor(**changes), SIXTEEN)
    if message is None:
        assert read_checkpoint(path)["t"].numel() == 0
        return
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(path)


def test_a_byte_that_is_no_bool_is_read_as_true(write: Writer) -> None:
    path = write(tensor(kind="BoolStorage"), {"a/data/0": b"\x00\x01\x02\xff"})
    found = read_checkpoint(path)["t"]
    assert found.view(torch.uint8).tolist() == [0, 1, 1, 1]


# Archives that are not what they say


def test_an_archive_that_grows_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/data.pkl", tensor(count=2**20))
        opened.writestr("a/byteorder", "little")
        opened.writestr("a/data/0", bytes(2**22))
    assert path.stat().st_size < 2**14
    with pytest.raises(ArtifactError, match="compressed or encrypted"):
        read_checkpoint(path)


def patched(path: Path, signature: bytes, at: int, value: bytes) -> None:
    """Overwrite a field of the last member's record of this kind in the zip."""
    raw = bytearray(path.read_bytes())
    place = raw.rindex(signature) + at
    raw[place : place + len(value)] = value
    path.write_bytes(raw)


def test_members_that_claim_more_than_the_file_are_refused(write: Writer) -> None:
    path = write(tensor(), SIXTEEN)
    patched(path, b"PK\x01\x02", 20, (2**31).to_bytes(4, "little") * 2)
    with pytest.raises(ArtifactError, match=r"members claim 2147483.* but the file has"):
        read_checkpoint(path)


def test_an_encrypted_member_is_refused(write: Writer) -> None:
    path = write(tensor(), SIXTEEN)
    patched(path, b"PK\x01\x02", 8, b"\x01\x00")
    with pytest.raises(ArtifactError, match="compressed or encrypted"):
        read_checkpoint(path)


def test_a_flipped_bit_in_a_storage_is_noticed(write: Writer) -> None:
    path = write(tensor(), SIXTEEN)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(SIXTEEN["a/data/0"], bytes(15) + b"\x01"))
    with pytest.raises(ArtifactError, match="member 'a/data/0' is damaged: Bad CRC-32"):
        read_checkpoint(path)


def test_two_members_of_one_name_are_refused(write: Writer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, on writing it
        path = write(tensor(), SIXTEEN | {"a/data.pkl": b"}."})
    with pytest.raises(ArtifactError, match="same name"):
        read_checkpoint(path)


def test_a_member_whose_name_leads_outside_is_never_written(write: Writer) -> None:
    path = write(tensor(), SIXTEEN | {"../outside": b"x", "/outside": b"x", "a/../../o": b"x"})
    before = sorted(path.parent.parent.rglob("*"))
    assert read_checkpoint(path)["t"].shape == (4,)
    assert sorted(path.parent.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"b/data.pkl": b"}."}, "it has 2 members 'data.pkl'"),
        ({"a/byteorder": b"big"}, "same name|big-endian"),
    ],
)
def test_an_archive_of_another_kind_is_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in ({"a/data.pkl": b"}."} | members).items():
            opened.writestr(name, content)
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(path)


def test_a_file_of_the_old_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", {"a": 1}, _use_new_zipfile_serialization=False)
    with pytest.raises(ArtifactError, match=r"not a whole zip archive.*saved again by the program"):
        read_checkpoint(path)


def test_a_file_that_is_absent_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such file"):
        read_checkpoint(tmp_path / "file.pt")
