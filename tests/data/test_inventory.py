"""What is said of a data set, and 300 files as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nextset.core.noise import Noise
from nextset.data.dataset import open_dataset
from nextset.data.emoji import EmojiSet
from nextset.data.inventory import inventory, summary
from tests.data.pictures import encoded, mixed_folder, ramp, write_files

PICTURE = encoded(ramp(8, 8))


def test_an_inventory_is_json_and_complete(tmp_path: Path) -> None:
    files = {"cat/a.png": PICTURE, "cat/b.jpg": encoded(ramp().convert("L"), "JPEG"), "cat/b.txt": b"grey"}
    write_files(tmp_path, {**files, "dog/c.png": PICTURE, "dog/d.png": PICTURE, "dog/bad.png": b"no"})
    about = inventory(open_dataset(tmp_path, size=8))
    assert json.loads(json.dumps(about)) == about
    (skipped,) = about.pop("skipped")
    assert "dog/bad.png is not a picture" in skipped
    assert about == {
        "source": str(tmp_path),
        "pictures": 4,
        "size": 8,
        "classes": {"cat": 2, "dog": 2},
        "captions": 1,
        "converted": {"greyscale converted to RGB": 1},
        "notes": ["3 of 4 pictures have no caption; theirs is empty"],
    }


def test_small_classes_are_noted(tmp_path: Path) -> None:
    write_files(tmp_path / "set", {"cat/a.png": PICTURE, "dog/b.png": PICTURE, "dog/c.png": PICTURE})
    data = open_dataset(tmp_path / "set", size=8)
    assert data.labels.tolist() == [0, 1, 1]  # it trains
    assert inventory(data)["notes"] == ["1 class has one picture: it can only be learned by heart ('cat')"]
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.array([0, 0, 2, 3, 4, 5, 6, 7])
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    many, none = inventory(open_dataset(tmp_path / "a.npz", size=8))["notes"]
    assert many == "6 classes have one picture: it can only be learned by heart ('2', '3', '4', '5', '6', ...)"
    assert none == "1 class has no picture: nothing is learned of it ('1')"
    np.savez(tmp_path / "one.npz", images=images[:1])
    assert inventory(open_dataset(tmp_path / "one.npz", size=8))["notes"] == []  # no classes to compare


def test_emoji_have_one_too() -> None:
    rgba = np.zeros((2, 16, 16, 4), np.uint8)
    emoji = EmojiSet(rgba, torch.tensor([0, 0]), ["faces"], ["grin", "wink"], ["g", "g"], ["a", "b"])
    about = inventory(emoji)
    assert (about["source"], about["size"], about["captions"], about["classes"]) == ("emoji", 16, 2, {"faces": 2})


def test_a_summary_is_short() -> None:
    about = {"notes": ["n"], "skipped": [str(i) for i in range(30)]}
    lines = summary(about, most=3)
    assert lines == ["note: n", "skipped: 0", "skipped: 1", "skipped: 2", "skipped: and 27 more"]
    assert summary({"notes": [], "skipped": ["x"]}) == ["skipped: x"]


@pytest.mark.parametrize("options", [{}, {"crop": "random", "flip": True}])
def test_300_mixed_files(tmp_path: Path, options: dict[str, object]) -> None:
    readable, said = mixed_folder(tmp_path)
    assert readable + len(said) == 300 == sum(path.is_file() for path in tmp_path.rglob("*"))
    data = open_dataset(tmp_path, size=16, **options)
    about = inventory(data)
    assert about["pictures"] == readable == 204
    assert about["classes"] == {"class 0": 68, "class 1": 68, "class 2": 68}
    assert len(about["skipped"]) == len(said)
    for name, why in said.items():
        (line,) = [line for line in about["skipped"] if line.startswith(str(tmp_path / name))]
        assert why in line
    for note in (
        "CMYK converted to RGB",
        "16-bit greyscale reduced to 8 bits",
        "16 bits reduced to 8",
        "GIF with several frames: the first is used",
        "turned upright as its EXIF tag says",
    ):
        assert about["converted"][note] == 12
    assert about["converted"]["palette converted to RGB"] == 24  # a GIF has one, too
    assert about["converted"]["transparency put on white"] == 24
    assert about["converted"].get("longer than 8:1, the middle is kept", 0) == (24 if options else 0)
    seen = data.images(torch.arange(204), Noise(0))
    assert seen.shape == (204, 3, 16, 16) and seen.abs().max() <= 1
