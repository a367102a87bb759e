"""Any picture file becomes an upright RGB or RGBA picture, or one clear line."""

from __future__ import annotations

import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from nextset.core.errors import NextsetError
from nextset.data.decode import decode
from tests.data.pictures import encoded, png, ramp


@pytest.fixture(autouse=True)
def no_warning_leaks() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def refused(source: bytes | str | Path, **options: int) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(NextsetError) as caught:
        decode(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plain_rgb_is_untouched_and_says_nothing() -> None:
    picture, notes = decode(encoded(ramp()))
    assert notes == [] and picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), np.asarray(ramp()))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    picture, notes = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind))
    assert notes == ["CMYK converted to RGB"]
    assert picture.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 255, 257, 32768, 65535]], dtype=np.uint16)
    picture, notes = decode(encoded(Image.fromarray(values), kind))
    assert notes[0] == "16-bit greyscale reduced to 8 bits"
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_16_bit_rgb_is_said() -> None:
    data = png(2, 1, b"\0" + struct.pack(">6H", 0, 32768, 65535, 257, 300, 65280), depth=16)
    picture, notes = decode(data)
    assert notes == ["16 bits reduced to 8"]
    assert np.asarray(picture).tolist() == [[[0, 128, 255], [1, 1, 255]]]


def test_floats_and_32_bit_integers() -> None:
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(decode(encoded(unit, "TIFF"))[0])[0, :, 0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[-100.0, np.nan, 300.0]], dtype=np.float32))
    picture, notes = decode(encoded(wide, "TIFF"))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 255]
    assert notes[0] == "greyscale from -100 (black) to 300 (white) reduced to 8 bits"
    large = Image.fromarray(np.array([[0, 1_000_000]], dtype=np.int32))
    assert np.asarray(decode(encoded(large, "TIFF"))[0])[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("mode", "note"),
    [("L", "greyscale converted to RGB"), ("1", "black and white converted to RGB"), ("P", "palette converted to RGB")],
)
def test_one_channel(mode: str, note: str) -> None:
    source = ramp().convert(mode)
    picture, notes = decode(encoded(source))
    assert notes == [note]
    assert np.array_equal(np.asarray(picture), np.asarray(source.convert("RGB")))


def test_transparency_is_kept_only_where_there_is_some() -> None:
    solid, glass = ramp().convert("RGBA"), ramp().convert("RGBA")
    glass.putalpha(128)
    assert decode(encoded(solid)) == (ramp(), [])
    assert decode(encoded(glass))[0].mode == "RGBA"
    assert decode(encoded(glass.convert("LA")))[0].mode == "RGBA"
    assert decode(encoded(ramp().quantize(16), transparency=0))[0].mode == "RGBA"
    keyed, _ = decode(encoded(ramp(), transparency=(0, 0, 90)))
    assert keyed.getpixel((0, 0))[3] == 0 and keyed.getpixel((1, 1))[3] == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture, notes = decode(encoded(ramp(), kind, exif=exif))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    expected = ramp() if orientation == 1 else ramp().transpose(turn[orientation])
    assert picture.size == expected.size
    assert notes == ([] if orientation == 1 else ["turned upright as its EXIF tag says"])
    difference = np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    picture, notes = decode(encoded(red, kind, save_all=True, append_images=[blue, red]))
    assert notes[-1] == f"{kind} with several frames: the first is used"
    assert picture.getpixel((4, 4))[0] > 250


@pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow has no colour management")
def test_colour_profiles() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(ramp(), icc_profile=srgb)) == (ramp(), [])
    assert decode(encoded(ramp(), icc_profile=b"no profile"))[1] == []
    other = bytearray(srgb)
    at = other.index(b"rXYZ")  # the tag table's entry: name, offset, size
    place = int.from_bytes(other[at + 4 : at + 8], "big")
    other[place + 8 : place + 12] = struct.pack(">i", 0x8000)  # another red
    name = other.index("sRGB".encode("utf-16-be"))
    other[name : name + 8] = "wide".encode("utf-16-be")
    picture, notes = decode(encoded(ramp(), icc_profile=bytes(other)))
    assert len(notes) == 1 and "to sRGB from its colour profile" in notes[0]
    assert picture != ramp()


def test_missing_and_wrong_paths(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.png")
    assert "is a folder" in refused(tmp_path)
    assert "device or a pipe" in refused("/dev/zero")
    assert "is no path" in refused("a\0b")
    (tmp_path / "empty.png").touch()
    assert "0 bytes" in refused(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture\n")
    assert "not a picture that can be read" in refused(tmp_path / "text.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_truncated(kind: str) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encoded(noisy, kind)
    assert "damaged" in refused(data[: len(data) // 2])


def test_bombs_are_refused_by_their_header() -> None:
    assert "81,000,000 pixels, but at most 64,000,000" in refused(png(9000, 9000, b""))
    assert "144,000,000 pixels" in refused(png(12000, 12000, b""))  # where Pillow would warn
    assert "400,000,000 pixels" in refused(png(20000, 20000, b""))  # where Pillow would raise
    assert "at most 100 are decoded" in refused(encoded(ramp()), max_pixels=100)


def test_formats_that_start_other_programs_are_not_tried() -> None:
    assert "not a picture" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def test_names_in_messages() -> None:
    with pytest.raises(NextsetError, match="picture 7 of set"):
        decode(b"x", name="picture 7 of set")


def test_readers_in_threads_leave_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    data = encoded(ramp(), "JPEG")
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"]), st.data())
def test_damaged_bytes_give_a_picture_or_one_line(kind: str, data: st.DataObject) -> None:
    raw = bytearray(encoded(ramp(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture, _ = decode(bytes(raw), max_pixels=1_000_000)
    except NextsetError as error:
        assert "\n" not in str(error)
    else:
        assert picture.mode in ("RGB", "RGBA")
