"""Files: whole or absent, whatever happens while they are written; reading that ends in one line, whatever is read."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write, read_json, read_safetensors, write_json, write_safetensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor([1, 2], dtype=torch.int16)}


def header(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


# ---- writing


def test_atomic_write_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "file") as handle:
        handle.write(b"whole")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "new" / "file").stat().st_mode) == 0o644


def test_an_exception_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(path) as handle:
        handle.write(b"new")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_is_said_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NextsetError, match=r"disk is full|cannot be written"), atomic_write(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(NextsetError, match="cannot be written"), atomic_write(tmp_path / "file") as handle:
        handle.write(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_killed_at_any_moment_the_file_is_one_of_those_written(tmp_path: Path) -> None:
    """kill -9 while a process writes one version after another: what lies there is a whole version."""
    code = textwrap.dedent(
        """
        import sys
        from nextset.core.files import atomic_write
        print("ready", flush=True)
        for i in range(10**6):
            with atomic_write(sys.argv[1]) as handle:
                for _ in range(64):
                    handle.write(bytes([i % 256]) * 1024)
        """
    )
    path = tmp_path / "file"
    for wait in (0.02, 0.05, 0.09):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        while not path.exists():
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert len(content) == 64 * 1024 and len(set(content)) == 1


# ---- reading


def test_safetensors_and_json_return_what_was_written(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {**TENSORS, "strided": torch.arange(6).view(2, 3).t()})
    again = read_safetensors(tmp_path / "x.safetensors")
    assert torch.equal(again["a"], TENSORS["a"]) and again["b.c"].dtype == torch.int16
    assert torch.equal(again["strided"], torch.arange(6).view(2, 3).t())
    write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert read_json(tmp_path / "x.json") == {"ä": [1, None]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        header(b"{}", length=2**63),
        header(b"{}", length=10**9),
        header(b"[]"),
        header(b"{"),
        header(b"[" * 100_000 + b"]" * 100_000),
        header(b'{"a": 1}'),
        header(
            b'{"a":{"dtype":"F32","shape":' + json.dumps([1] * 10**6).encode() + b',"data_offsets":[0,4]}}', b"1234"
        ),
        header(b'{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[4611686018427387903,4],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"1234"),
        header(b'{"a":{"dtype":"XX","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    ],
)
def test_bad_safetensors_end_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(NextsetError, match="not a whole safetensors file") as refused:
        read_safetensors(tmp_path / "x.safetensors")
    assert len(str(refused.value)) < 500


@settings(max_examples=150)
@given(cut=st.integers(0, 150), at=st.integers(0, 150), byte=st.integers(0, 255))
def test_a_damaged_safetensors_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_safetensors(path, TENSORS)
    whole = bytearray(path.read_bytes())
    whole[at % len(whole)] = byte
    path.write_bytes(bytes(whole[: len(whole) - cut]))
    try:
        assert all(isinstance(t, torch.Tensor) for t in read_safetensors(path).values())
    except NextsetError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": }'])
def test_bad_json_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(NextsetError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_files_that_are_too_large_or_absent_are_not_opened(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", TENSORS)
    with pytest.raises(NextsetError, match=r"^\S+ has \d+ bytes, but at most 10 are read"):
        read_safetensors(tmp_path / "x.safetensors", limit=10)
    write_json(tmp_path / "x.json", list(range(100)))
    with pytest.raises(NextsetError, match=r"^\S+ has \d+ bytes, but .* at most 10;"):
        read_json(tmp_path / "x.json", limit=10)
    for read in (read_safetensors, read_json):
        with pytest.raises(NextsetError, match="does not exist"):
            read(tmp_path / "absent")
