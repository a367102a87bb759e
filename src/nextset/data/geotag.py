"""Where a photo says that it was taken: its EXIF position, read with distrust and written.

Degrees, minutes and seconds are rationals with a reference (N, S, E, W); cameras leave out references, divide by zero and
claim latitudes beyond the poles. What cannot be true is refused in one line. Source: sheet `just_zoom_in`, User-facing
behaviour.
"""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write

_LIMITS = {"latitude": (90.0, "NS"), "longitude": (180.0, "EW")}


@dataclasses.dataclass(frozen=True)
class Position:
    """lat, lon: degrees. heading: degrees clockwise from north, None where nobody knows."""

    lat: float
    lon: float
    heading: float | None = None


def check_position(lat: float, lon: float, name: str) -> None:
    """Refuse a place that is none, in the name of what says it."""
    for what, value in (("latitude", lat), ("longitude", lon)):
        limit, _ = _LIMITS[what]
        if not (math.isfinite(value) and abs(value) <= limit):
            raise NextsetError(
                f"{name} says {what} {value:g}, but must be between -{limit:g} and {limit:g}; correct it, or leave it out"
            )


def read_position(path: str | Path) -> Position | None:
    """The EXIF position of a picture file; None where it has none. NextsetError for one that cannot be true."""
    path = Path(path)
    try:
        with Image.open(path) as opened:
            tags: dict[int, Any] = opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; check the path") from error
    except Exception:  # a damaged tag is no position; whether the picture can be read is its reader's question
        return None
    values = [
        _angle(tags, ref, value, what, str(path))
        for ref, value, what in (
            (ExifTags.GPS.GPSLatitudeRef, ExifTags.GPS.GPSLatitude, "latitude"),
            (ExifTags.GPS.GPSLongitudeRef, ExifTags.GPS.GPSLongitude, "longitude"),
        )
    ]
    lat, lon = values
    if lat is None or lon is None:
        return None
    check_position(lat, lon, str(path))
    return Position(lat, lon, _heading(tags))


def _angle(tags: dict[int, Any], ref: int, value: int, what: str, name: str) -> float | None:
    """Degrees of three rationals and their reference."""
    if value not in tags:
        return None
    try:
        parts = [float(part) for part in tags[value]]
        degrees = sum(part / 60**i for i, part in enumerate(parts))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise NextsetError(
            f"{name} has an EXIF {what} that is no number ({tags[value]!r}); remove or correct it"
        ) from error
    letters = _LIMITS[what][1]
    letter = tags.get(ref, "")
    letter = (letter.decode("latin-1") if isinstance(letter, bytes) else str(letter)).strip("\0 ").upper()
    if letter not in tuple(letters):
        raise NextsetError(
            f"{name} has an EXIF {what} without {letters[0]} or {letters[1]} (it says {letter!r}); correct it"
        )
    return -degrees if letter == letters[1] else degrees


def _heading(tags: dict[int, Any]) -> float | None:
    try:
        value = float(tags[ExifTags.GPS.GPSImgDirection])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return value % 360 if math.isfinite(value) else None


def write_photo(path: str | Path, picture: Image.Image, position: Position) -> None:
    """A JPEG with this position in its EXIF data (to 1e-5 seconds of arc), written whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise NextsetError(f"{path} ends in {path.suffix!r}, but a photo with a position is written as .jpg")
    check_position(position.lat, position.lon, str(path))
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "S" if position.lat < 0 else "N"
    gps[ExifTags.GPS.GPSLatitude] = _parts(position.lat)
    gps[ExifTags.GPS.GPSLongitudeRef] = "W" if position.lon < 0 else "E"
    gps[ExifTags.GPS.GPSLongitude] = _parts(position.lon)
    if position.heading is not None:
        gps[ExifTags.GPS.GPSImgDirectionRef] = "T"
        gps[ExifTags.GPS.GPSImgDirection] = round(position.heading % 360, 2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0, exif=exif)
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())


def _parts(degrees: float) -> tuple[float, float, float]:
    """Whole degrees, whole minutes, seconds."""
    seconds = round(abs(degrees) * 3600, 5)
    minutes, seconds = divmod(seconds, 60)
    degrees, minutes = divmod(minutes, 60)
    return degrees, minutes, round(seconds, 5)
