"""Files that may hold any picture, or none: to an upright 8-bit RGB or RGBA picture, with a note for each conversion.

A file is hostile until it has been decoded. Only formats that Pillow decodes by itself are tried (no external
programs), and the header's pixel count is compared with a limit before a pixel is decoded. It knows nothing of
tensors, sizes or models.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from nextset.core.errors import NextsetError

MAX_PIXELS = 64_000_000
MAX_BYTES = 2**30
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
_LOCK = threading.RLock()  # warnings are filtered for the whole process: one reader at a time changes that


def decode(
    source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, list[str]]:
    """An upright picture of mode RGB, or RGBA where some of it is transparent, and notes on what was converted.

    source: a path, or the bytes of a file. name: what messages call it. Raises `NextsetError` in one line for a file
    that is missing, no picture, damaged, cut short, or has more than `max_pixels` pixels.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _bytes(Path(source), name)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters is raised or noted; a person sees no library's warnings
        opened = _open(data, name, max_pixels)
        notes: list[str] = []
        try:
            # Pillow keeps the upper 8 of 16 bits of a colour without a word
            deep = any(";16" in str(tile) for tile in getattr(opened, "tile", []))
            turned = _orientation(opened) != 1  # asked before decoding: some formats turn and forget it there
            opened.load()
            picture = _colours(opened, notes, deep)
            with contextlib.suppress(Exception):  # a damaged tag leaves the picture as it lies
                ImageOps.exif_transpose(picture, in_place=True)
            picture.info.clear()  # tags and profiles of the file are not those of what is made of it
        except Exception as error:  # a hostile file can make a decoder raise anything
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise NextsetError(f"{name} is damaged or cut short ({reason}); get it again, or save it anew") from error
        if turned:
            notes.append("turned upright as its EXIF tag says")
        if _several(opened):
            notes.append(f"{opened.format} with several frames: the first is used")
        return picture, notes


def decode_frames(
    source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """All frames of an animated GIF, WebP or PNG, one after another, as RGB, or RGBA where some of it is transparent.

    A picture that does not move is one frame. max_pixels: of one frame. Errors: see `decode`.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _bytes(Path(source), name)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = _open(data, name, max_pixels)
    index, moving = 0, True
    while moving:
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if index:
                    opened.seek(index)
                opened.load()
                frame = _colours(opened, [], False)
            except EOFError:
                if index:
                    return
                raise NextsetError(f"{name} is cut short before its first frame; get it again") from None
            except Exception as error:  # a hostile file can make a decoder raise anything
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                raise NextsetError(f"{name} is damaged at frame {index} ({reason}); get it again") from error
            moving = index > 0 or getattr(opened, "format", "") in ("GIF", "WEBP", "PNG")
        yield frame
        index += 1


def _bytes(path: Path, name: str) -> bytes:
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES:
            return path.read_bytes()
    except FileNotFoundError as error:
        raise NextsetError(f"{name} does not exist; check the path") from error
    except OSError as error:
        raise NextsetError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the path
        raise NextsetError(f"{name!r} is no path ({error})") from error
    if stat.S_ISREG(found.st_mode):
        raise NextsetError(f"{name} has {found.st_size:,} bytes, but at most {MAX_BYTES:,} are read; save it smaller")
    kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
    raise NextsetError(f"{name} is {kind}, but must be a picture file")


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The picture with its header read and its size checked, not decoded."""
    if not data:
        raise NextsetError(f"{name} is empty (0 bytes); get it again")
    Image.init()
    known = [f for f in FORMATS if f in Image.OPEN]
    try:
        opened = Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        counted = re.search(r"\d+", str(error))
        raise NextsetError(_too_large(name, f"{int(counted[0]):,}" if counted else "far more", max_pixels)) from error
    except UnidentifiedImageError as error:
        what = f"{name} is not a picture that can be read, or is damaged"
        raise NextsetError(f"{what}; save it as one of {', '.join(known)}") from error
    except Exception as error:  # a hostile header can make a parser raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise NextsetError(f"{name} is damaged ({reason}); get it again, or save it anew") from error
    if opened.width * opened.height > max_pixels:
        size = f"{opened.width} x {opened.height} = {opened.width * opened.height:,}"
        raise NextsetError(_too_large(name, size, max_pixels))
    return opened


def _too_large(name: str, pixels: str, limit: int) -> str:
    return f"{name} says it has {pixels} pixels, but at most {limit:,} are decoded; make it smaller first"


def _orientation(opened: Image.Image) -> int:
    with contextlib.suppress(Exception):
        value = opened.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    return 1


def _several(opened: Image.Image) -> bool:
    with contextlib.suppress(Exception):
        return bool(getattr(opened, "is_animated", False))
    return False


def _colours(opened: Image.Image, notes: list[str], deep: bool) -> Image.Image:
    """Any mode to RGB, or to RGBA if a pixel is transparent. EXIF data stays with the picture."""
    mode = opened.mode
    picture = opened
    if mode.startswith("I") or mode == "F":
        picture = _eight_bits(opened, notes)
    elif deep:
        notes.append("16 bits reduced to 8")
    if (profile := opened.info.get("icc_profile")) and mode in ("CMYK", "RGB", "RGBA"):
        picture = _to_srgb(picture, profile, notes)
    if mode == "P":
        notes.append("palette converted to RGB")
    elif mode in ("L", "LA", "La", "1"):
        notes.append(f"{'black and white' if mode == '1' else 'greyscale'} converted to RGB")
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV") and picture.mode == mode:
        notes.append(f"{mode} converted to RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return rgba if rgba.getchannel("A").getextrema()[0] != 255 else rgba.convert("RGB")
    # a copy even where nothing changes: the opened file may still move to another frame
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(opened: Image.Image, notes: list[str]) -> Image.Image:
    """One channel of 16 or 32 bits or of floats to 8 bits. Pillow's own conversion would clip at 255."""
    if opened.mode.startswith("I;16"):
        notes.append("16-bit greyscale reduced to 8 bits")
        return Image.fromarray(((np.asarray(opened).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    values = np.asarray(opened).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a finite number")
    low, high = float(values[finite].min()), float(values[finite].max())
    values = np.where(finite, values, low)
    whole = opened.mode != "F"
    if whole and low >= 0 and high <= 65535:
        span, said = (0.0, 65535.0), "16-bit greyscale reduced to 8 bits"
    elif not whole and low >= 0 and high <= 1:
        span, said = (0.0, 1.0), "greyscale of numbers from 0 to 1 reduced to 8 bits"
    else:
        span = low, max(high, low + 1e-6)
        said = f"greyscale from {low:g} (black) to {high:g} (white) reduced to 8 bits"
    notes.append(said)
    scaled = np.floor((values - span[0]) / (span[1] - span[0]) * 255 + 0.5)
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """Colours of another profile (a phone's Display P3, a press's CMYK) to sRGB; a broken profile changes nothing."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        title = ImageCms.getProfileDescription(given).strip()
        if "srgb" in title.lower():
            return picture
        wanted = "RGBA" if picture.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(picture, given, ImageCms.createProfile("sRGB"), outputMode=wanted)
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError):  # or Pillow without colour management
        return picture
    notes.append(f"{picture.mode} converted to sRGB from its colour profile {title[:60]!r}")
    assert converted is not None  # only an in-place conversion returns nothing
    return converted
