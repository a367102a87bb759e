"""An `.npz` file is read whole, within its limit, and never runs code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nextset.core.errors import NextsetError
from nextset.data.arrays import array_names, read_arrays, write_arrays


def refused(path: Path, names: tuple[str, ...] = ("a",), **options: int) -> str:
    with pytest.raises(NextsetError) as caught:
        read_arrays(path, names, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(12, dtype=np.int64).reshape(3, 4), "b": np.array(["x", "\U0001f600"])}
    write_arrays(tmp_path / "one.npz", arrays)
    write_arrays(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert array_names(tmp_path / "one.npz") == ["a", "b"]
    read = read_arrays(tmp_path / "one.npz", ["a", "b"])
    assert all(np.array_equal(read[n], arrays[n]) for n in arrays)
    assert read["a"].flags.writeable


def test_missing_and_unknown(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.npz")
    write_arrays(tmp_path / "a.npz", {"labels": np.zeros(3)})
    assert "did you mean 'labels'" in refused(tmp_path / "a.npz", ("lables",))
    (tmp_path / "text.npz").write_text("hello")
    assert "not a whole .npz" in refused(tmp_path / "text.npz")
    assert "cannot be read" in refused(tmp_path)


def test_truncated_and_flipped(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "not a whole .npz" in refused(path)
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(broken))
    assert "damaged" in refused(path)


def test_limit_is_checked_before_unpacking(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"a": np.zeros(1_000_000, dtype=np.uint8)})
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    assert "at most 1,000 are read" in refused(tmp_path / "a.npz", limit=1000)


def test_headers_that_lie_allocate_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue() + b"few")
    assert "10000000000" in refused(tmp_path / "a.npz")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], dtype=object))
    assert "pickled objects" in refused(tmp_path / "a.npz")
