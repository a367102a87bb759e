"""Folders and packed files of pictures, as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextset.judges.sets import PictureSet
from nextset.judges.sources import middle, open_set
from tests.data.pictures import encoded
from tests.judges.scenes import refused, scenes, write


def everything(pictures: PictureSet) -> np.ndarray:
    return pictures.read(np.arange(len(pictures)))


def test_png_files_hold_exactly_the_pictures(tmp_path: Path) -> None:
    images = scenes(5)
    pictures = open_set(write(tmp_path, images))
    assert (everything(pictures) == images).all()
    assert pictures.labels is None and pictures.size == (16, 16) and not pictures.jpeg


def test_classes_are_subfolders_and_come_in_order(tmp_path: Path) -> None:
    images = scenes(6)
    write(tmp_path, images, ["dog", "cat", "dog", "ant", "cat", "cat/old"])
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / ".hidden" / "a.png")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    pictures = open_set(tmp_path)
    assert pictures.class_names == ["ant", "cat", "dog"] and pictures.labels is not None
    assert pictures.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert (everything(pictures) == images[[3, 1, 4, 5, 0, 2]]).all()


def test_one_subfolder_is_a_class(tmp_path: Path) -> None:
    pictures = open_set(write(tmp_path, scenes(2), ["cat", "cat"]))
    assert pictures.class_names == ["cat"] and pictures.labels is not None and pictures.labels.tolist() == [0, 0]


def test_a_folder_is_known_by_its_listing(tmp_path: Path) -> None:
    def identity(size: int | None = None) -> str:
        return open_set(tmp_path, size).identity

    write(tmp_path, scenes(3))
    first = identity()
    assert identity() == first and identity(8) != first
    path = tmp_path / "00001.png"
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    touched = identity()
    assert touched != first
    path.rename(tmp_path / "00009.png")
    assert identity() not in (first, touched)


def test_sizes_must_be_equal_unless_one_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, scenes(3))
    Image.fromarray(np.full((20, 30, 3), 50, np.uint8)).save(tmp_path / "wide.png")
    line = refused(everything, open_set(tmp_path))
    assert "wide.png" in line and "30 x 20 pixels, others 16 x 16" in line and "--size 16" in line
    pictures = open_set(tmp_path, size=8)
    assert everything(pictures).shape == (4, 8, 8, 3) and (everything(pictures)[3] == 50).all()


def test_the_middle_square_is_averaged() -> None:
    picture = scenes(1, side=16)[0][:8]
    expected = picture[:, 4:12].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert (middle(picture, 4) == np.floor(expected + 0.5)).all()


def test_nothing_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, scenes(3))
    data = (tmp_path / "00001.png").read_bytes()
    (tmp_path / "00001.png").write_bytes(data[: len(data) // 2])
    assert "00001.png is damaged or cut short" in refused(everything, open_set(tmp_path))


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    assert "holds no pictures" in refused(open_set, tmp_path)
    assert "does not exist" in refused(open_set, tmp_path / "none")
    (tmp_path / "a.txt").write_text("hello")
    assert "neither a folder nor an .npz" in refused(open_set, tmp_path / "a.txt")
    np.savez(tmp_path / "b.npz", pictures=np.zeros(3))
    assert "has no array 'jpeg'" in refused(open_set, tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.zeros((0, 8, 8, 3), np.uint8))
    assert "holds no pictures" in refused(open_set, tmp_path / "c.npz")
    assert "size is 4" in refused(open_set, tmp_path, 4)


def pack(path: Path, images: np.ndarray, **more: np.ndarray) -> Path:
    files = [encoded(Image.fromarray(picture), "PNG") for picture in images]
    ends = np.cumsum([0, *(len(file) for file in files)])
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=ends, **more)
    return path


def test_packed_pictures_and_packed_files(tmp_path: Path) -> None:
    images, labels, names = scenes(4), np.array([1, 0, 1, 1]), np.array(["ant", "bee"])
    np.savez(tmp_path / "plain.npz", images=images, labels=labels, classes=names)
    pack(tmp_path / "files.npz", images, labels=labels, classes=names)
    for name in ("plain.npz", "files.npz"):
        pictures = open_set(tmp_path / name)
        assert (everything(pictures) == images).all() and pictures.class_names == ["ant", "bee"]
        assert pictures.labels is not None and pictures.labels.tolist() == [1, 0, 1, 1]
        assert everything(open_set(tmp_path / name, size=8)).shape == (4, 8, 8, 3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"labels": np.array([0, 1])}, "one for each of its 4 pictures"),
        ({"labels": np.array([0, 1, 2, 1]), "classes": np.array(["ant", "bee"])}, "only 2 class names"),
        ({"offsets": np.array([0, 10, 5, 20, 30])}, "offsets must rise"),
        ({"offsets": np.array([0, 10, 20, 30, 10**6])}, "offsets must rise"),
    ],
)
def test_packed_files_that_do_not_fit_are_refused(tmp_path: Path, more: dict[str, np.ndarray], words: str) -> None:
    arrays = dict(np.load(pack(tmp_path / "a.npz", scenes(4))))
    np.savez(tmp_path / "b.npz", **{**arrays, **more})
    assert words in refused(open_set, tmp_path / "b.npz")
