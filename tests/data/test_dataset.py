"""Folders and packed files behind the one interface of data sets."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.dataset import PictureOptions, balanced_weights, cache_folder, open_dataset
from nextset.data.folder import read_folder
from nextset.data.packed import read_npz
from tests.data.pictures import SHARED, encoded, ramp, write_files, write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, a greyscale and a transparent file, a broken one, and things that are no pictures."""
    files = {
        "cat/b.png": encoded(ramp()),
        "cat/a.jpg": encoded(ramp().convert("L"), "JPEG"),
        "cat/.hidden.png": encoded(ramp()),
        "cat/notes.txt": b"words",
        "apple/deep/c.webp": encoded(ramp(), "WEBP", lossless=True),
        "apple/broken.png": encoded(ramp())[:60],
    }
    return write_files(tmp_path / "set", files)


def test_folder_classes_order_and_skipped(folder: Path) -> None:
    data = read_folder(folder, 16)
    assert data.class_names == ["apple", "cat"] and data.labels.tolist() == [0, 1, 1]
    assert len(data) == 3 and data.images(torch.arange(3)).shape == (3, 3, 16, 16)
    assert len(data.skipped) == 2 and "broken.png is damaged" in data.skipped[0]
    assert "notes.txt is a caption, but no picture" in data.skipped[1]
    assert data.converted == {"greyscale converted to RGB": 1}
    grey = data.images(torch.tensor([1]))
    assert torch.equal(grey[:, 0], grey[:, 1])


def test_folder_fingerprint_follows_content(folder: Path) -> None:
    first = read_folder(folder, 16).fingerprint
    assert read_folder(folder, 16).fingerprint == first
    assert read_folder(folder, 8).fingerprint != first
    (folder / "cat").rename(folder / "dog")
    assert read_folder(folder, 16).fingerprint != first


def test_folder_without_classes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(ramp()))
    assert read_folder(tmp_path, 8).class_names == ["all"]


def test_folder_refusals(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NextsetError, match="holds no pictures; give"):
        (tmp_path / "empty").mkdir()
        read_folder(tmp_path / "empty", 8)
    with pytest.raises(NextsetError, match=r"holds no pictures \(2 files of other kinds\)"):
        read_folder(write_files(tmp_path / "words", {"a.txt": b"a", "b/c.pdf": b"c"}), 8)
    with pytest.raises(NextsetError, match="is not a folder"):
        read_folder(tmp_path / "none", 8)
    with pytest.raises(NextsetError, match="at most 100 bytes are held in memory; use a smaller size"):
        read_folder(folder, 8, memory=100)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    with pytest.raises(NextsetError, match=r"1 were skipped; the first: .*a\.png"):
        read_folder(tmp_path / "bad", 8)


def test_flip_is_a_function_of_the_sample(folder: Path) -> None:
    data = read_folder(folder, 16, PictureOptions(flip=True))
    indices, samples = torch.zeros(40, dtype=torch.int64), torch.arange(40)
    plain = data.images(indices)
    flipped = data.images(indices, Noise(1), samples)
    mirrored = (flipped != plain).flatten(1).any(1)
    assert 8 < int(mirrored.sum()) < 32
    assert torch.equal(flipped[mirrored], plain[mirrored].flip(-1))
    assert torch.equal(data.images(indices[7:8], Noise(1), samples[7:8]), flipped[7:8])
    assert torch.equal(read_folder(folder, 16).images(indices, Noise(1), samples), plain)


def pack(path: Path, files: list[bytes], **more: np.ndarray) -> Path:
    offsets = np.cumsum([0, *(len(f) for f in files)])
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets.astype(np.int64), **more)
    return path


def test_packed_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([1, 0, 2, 1], np.uint8))
    data = read_npz(tmp_path / "a.npz", 8)
    assert np.array_equal(data.pixels, pixels)
    assert data.labels.dtype == torch.int64 and data.labels.tolist() == [1, 0, 2, 1]
    assert data.class_names == ["0", "1", "2"]
    assert read_npz(tmp_path / "a.npz", 16).images(torch.tensor([3])).shape == (1, 3, 16, 16)


def test_packed_files_and_damage(tmp_path: Path) -> None:
    files = [encoded(ramp(8, 8), "JPEG"), b"broken", encoded(ramp(8, 8).convert("CMYK"), "JPEG")]
    path = pack(tmp_path / "a.npz", files, labels=np.array([0, 0, 1]), classes=np.array(["x", "y"]))
    data = read_npz(path, 8)
    assert data.labels.tolist() == [0, 1] and data.class_names == ["x", "y"]
    assert "picture 1 of" in data.skipped[0]
    assert data.converted == {"CMYK converted to RGB": 1}
    assert np.array_equal(data.pixels[0], np.asarray(Image.open(io.BytesIO(files[0]))))


def test_packed_refusals(tmp_path: Path) -> None:
    file = encoded(ramp(8, 8), "JPEG")
    cases = {
        "images are int64": {"images": np.zeros((2, 8, 8, 3), np.int64)},
        r"images are uint8 \(2, 8, 8\)": {"images": np.zeros((2, 8, 8), np.uint8)},
        "did you mean|known": {"pictures": np.zeros(3)},
        "offsets must rise": {"jpeg": np.frombuffer(file, np.uint8), "offsets": np.array([0, len(file) + 9])},
        "whole numbers": {"jpeg": np.frombuffer(file, np.uint8), "offsets": np.array([0.0, 9.0])},
        "labels are": {"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([1])},
        "a label is 5": {
            "images": np.zeros((1, 8, 8, 3), np.uint8),
            "labels": np.array([5]),
            "classes": np.array(["x"]),
        },
    }
    for i, (message, arrays) in enumerate(cases.items()):
        np.savez(tmp_path / f"{i}.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(NextsetError, match=message):
            read_npz(tmp_path / f"{i}.npz", 8)


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [(-1.0, 1.0, "(x + 1) * 127.5 + 0.5"), (0.0, 1.0, "x * 255 + 0.5"), (0.0, 255.0, "x.clip(0, 255)")],
)
def test_floats_are_refused_with_their_range(tmp_path: Path, low: float, high: float, remedy: str) -> None:
    images = np.full((3, 8, 8, 3), low, np.float32)
    images[1, 0, 0, 0] = high
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(NextsetError) as caught:
        read_npz(tmp_path / "a.npz", 8)
    assert f"float32 from {low:g} to {high:g}, but must be uint8" in str(caught.value)
    assert f"save ({remedy}).astype('uint8')" in str(caught.value)


def test_nan_is_refused_with_its_picture(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8, 3), np.float32)
    images[3, 2, 2] = np.nan
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(NextsetError, match="picture 3 holds NaN \\(3 of 192 values\\)"):
        read_npz(tmp_path / "a.npz", 8)


def test_limit_spreads_over_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 8, 8, 3), np.uint8), labels=np.repeat([0, 1, 2], 10))
    data = read_npz(tmp_path / "a.npz", 8, PictureOptions(limit=6))
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2] and data.notes == ["limit: 6 of 30 pictures were read"]
    with pytest.raises(NextsetError, match=r"has 30 pictures at size 32.*use a smaller size, or limit=10$"):
        read_npz(tmp_path / "a.npz", 32, memory=10 * 32 * 32 * 3)
    assert len(read_npz(tmp_path / "a.npz", 32, PictureOptions(limit=10), memory=10 * 32 * 32 * 3)) == 10


@pytest.mark.skipif(
    not (SHARED / "cifar10-jpeg" / "test.npz").exists(), reason="needs ../shared/data (or $NEXTSET_DATA)"
)
def test_cifar10_jpeg_is_read_to_the_pixel() -> None:
    """The CRC32 of the sheet of judges, in folder order: class folders, then file names."""
    data = read_npz(SHARED / "cifar10-jpeg" / "test.npz", 32)
    assert len(data) == 10_000 and len(data.class_names) == 10 and data.skipped == []
    stored = np.random.Generator(np.random.Philox(key=20260101)).permutation(10_000)
    assert f"{zlib.crc32(data.pixels[np.argsort(stored)].tobytes()):08x}" == "1b4f3165"


def test_open_by_place(tmp_path: Path, folder: Path) -> None:
    assert len(open_dataset(str(folder), size=16, flip=True)) == 3
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    assert len(open_dataset(tmp_path / "a.npz", size=8)) == 2
    shard = write_tar(tmp_path / "shards" / "a.tar", {"0.png": encoded(ramp()), "1.png": encoded(ramp())})
    for source in (shard, shard.parent, str(shard.parent / "*.tar")):
        assert len(open_dataset(source, size=8)) == 2
    (shard.parent / "b.png").write_bytes(encoded(ramp()))  # beside pictures, a shard is a file of another kind
    mixed = open_dataset(shard.parent, size=8)
    assert len(mixed) == 1 and "a.tar is no picture by its name" in mixed.skipped[0]


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int | None]] = []
    open_dataset(folder, size=8, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_open_refusals(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NextsetError, match="does not exist"):
        open_dataset("emojis")
    (tmp_path / "a.txt").touch()
    with pytest.raises(NextsetError, match=r"neither a folder nor an \.npz or \.tar"):
        open_dataset(tmp_path / "a.txt")
    with pytest.raises(NextsetError, match="did you mean 'flip'"):
        open_dataset(folder, flp=True)
    with pytest.raises(NextsetError, match="did you mean 'shift'"):
        open_dataset("emoji", shfit=2)
    with pytest.raises(NextsetError, match=r"EmojiOptions.shift is 'two'"):
        open_dataset("emoji", shift="two")
    with pytest.raises(NextsetError, match="size is 4"):
        open_dataset("emoji", size=4)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTSET_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NEXTSET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nextset"


def test_balanced_weights_draw_classes_by_a_power_of_their_size() -> None:
    labels = torch.tensor([0] * 100 + [1] * 4)
    weights = balanced_weights(labels, 0.5)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[:100].sum() / weights[100:].sum()).item() == pytest.approx(10 / 2)
    assert torch.equal(balanced_weights(labels, 1.0), torch.ones(104, dtype=torch.float64))
    alike = balanced_weights(labels, 0.0)
    assert alike[:100].sum().item() == pytest.approx(alike[100:].sum().item())
    with pytest.raises(NextsetError, match="power is 2"):
        balanced_weights(labels, 2)
