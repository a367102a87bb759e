"""Small pictures and files that the tests of the data room share."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED = Path(os.environ.get("NEXTSET_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def ramp(height: int = 20, width: int = 30) -> Image.Image:
    """An RGB picture without symmetry: red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1)
    return Image.fromarray(np.stack([red, green, np.full_like(x, 90)], -1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG written by hand: headers that Pillow would not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    """Files by their path below a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A shard with those members in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def mixed_folder(root: Path) -> tuple[int, dict[str, str]]:
    """300 files as people have them: 12 times 17 that can be read and 8 that cannot, in nested folders.

    Returns how many can be read and, by path below root, what must be said of those that cannot.
    """
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    grey16 = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    turned = Image.Exif()
    turned[0x0112] = 6
    glass = ramp().convert("RGBA")
    glass.putalpha(128)
    good = {
        "photo.jpg": encoded(photo, "JPEG"),
        "LOUD.JPG": encoded(photo, "JPEG"),
        "press.jpg": encoded(ramp().convert("CMYK"), "JPEG"),
        "rotated.jpg": encoded(ramp(), "JPEG", exif=turned),
        "grey.jpeg": encoded(ramp().convert("L"), "JPEG"),
        "grey16.png": encoded(grey16),
        "deep16.png": png(2, 1, b"\0" + bytes(12), depth=16),
        "pixel.png": encoded(ramp(1, 1)),
        "wide.png": encoded(Image.new("RGB", (12_000, 20), "red")),
        "tall.png": encoded(Image.new("RGB", (3, 12_000), "blue")),
        "moving.gif": encoded(ramp(), "GIF", save_all=True, append_images=[photo.resize((30, 20))]),
        "palette.png": encoded(ramp().quantize(16), transparency=0),
        "glass.webp": encoded(glass, "WEBP"),
        "fax.tif": encoded(ramp().convert("1"), "TIFF"),
        "measured.tiff": encoded(Image.fromarray(np.ones((4, 4), np.float32) / 2), "TIFF"),
        "name with spaces \u00e9\U0001f34e.bmp": encoded(ramp(), "BMP"),
        "raw.ppm": encoded(ramp(), "PPM"),
    }
    bad = {
        "cut.png": (encoded(photo)[:900], "damaged or cut short"),
        "cut.jpg": (encoded(photo, "JPEG")[:900], "damaged or cut short"),
        "words.png": (b"not a picture at all\n", "not a picture that can be read"),
        "noise.gif": (bytes(range(256)), "not a picture that can be read"),
        "empty.jpg": (b"", "0 bytes"),
        "bomb.png": (png(12_000, 12_000, b""), "144,000,000 pixels"),
        "report.pdf": (b"%PDF-1.4", "no picture by its name (.pdf)"),
        "alone.txt": (b"a caption", "no picture of that name"),
    }
    said = {}
    for i in range(12):
        folder = f"class {i % 3}/" + "deep/" * (i % 4) + f"{i}/"
        write_files(root / folder, {**good, **{name: data for name, (data, _) in bad.items()}})
        said.update({folder + name: why for name, (_, why) in bad.items()})
    return 12 * len(good), said
