"""EXIF positions, in and out, and those that lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ExifTags, Image

from nextset.core.errors import NextsetError
from nextset.data.geotag import Position, read_position, write_photo

GPS = ExifTags.GPS


def _save(path: Path, tags: dict[int, object]) -> Path:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(tags)
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    "position", [Position(38.8936, -77.0116, 12.5), Position(-33.9999999, 18.4, None), Position(0, 0)]
)
def test_what_was_written_is_read(tmp_path: Path, position: Position) -> None:
    write_photo(tmp_path / "a.jpg", Image.new("RGB", (8, 4)), position)
    found = read_position(tmp_path / "a.jpg")
    assert found is not None
    assert abs(found.lat - position.lat) < 3e-9 and abs(found.lon - position.lon) < 3e-9  # 1e-5 seconds of arc
    assert found.heading == position.heading


def test_a_photo_without_position_has_none(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    assert read_position(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (200.0, 0.0, 0.0)}, "latitude 200"),
        (
            {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (10.0, 0.0, 0.0), GPS.GPSLongitude: (4.0, 0.0, 0.0)},
            "without E or W",
        ),
    ],
)
def test_lies_are_refused(tmp_path: Path, tags: dict[int, object], said: str) -> None:
    east = {GPS.GPSLongitudeRef: "E", GPS.GPSLongitude: (4.0, 0.0, 0.0)} if len(tags) == 2 else {}
    with pytest.raises(NextsetError, match=said):
        read_position(_save(tmp_path / "a.jpg", {**tags, **east}))


def test_only_jpeg_carries_a_position(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=r"\.jpg"):
        write_photo(tmp_path / "a.png", Image.new("RGB", (8, 4)), Position(1, 2))
