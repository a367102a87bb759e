"""Photos of files with their positions: a folder with EXIF data, or a CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.data.folder import ENDINGS
from nextset.data.geotag import Position, check_position, read_position
from nextset.data.images import read_image

_COLUMNS = ("path", "latitude", "longitude")


def load_photo(picture: Image.Image, size: int) -> np.ndarray:
    """uint8 (3, size, 2 size) of an RGB picture, whatever its shape: bilinear, as sheet `just_zoom_in` reads photos."""
    resized = picture.convert("RGB").resize((2 * size, size), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(resized).transpose(2, 0, 1)


@dataclasses.dataclass
class Placed:
    """photos uint8 (N, 3, size, 2 size); positions: (lat, lon) of each; skipped: a line for each that was left out;
    decisions: length of the sequences of cells that a CSV gives, None where it gives none."""

    photos: np.ndarray
    positions: list[tuple[float, float]]
    skipped: list[str]
    decisions: int | None


def read_placed(source: Path, size: int) -> Placed:
    """Photos of a source with their positions.

    source: a folder, whose photos say themselves where they were taken, or stand in its photos.csv; or a CSV with path,
    latitude and longitude, and perhaps a sequence of cells in brackets, whose length is looked at.
    """
    photos, positions, skipped = [], [], []
    lengths: set[int] = set()
    for path, position, length in _listed(source):
        lengths |= set() if length is None else {length}
        if len(lengths) > 1:
            raise NextsetError(
                f"{source}: sequences have {' and '.join(map(str, sorted(lengths)))} cells; give all the same"
            )
        try:
            found = position or read_position(path)
            if found is None:
                raise NextsetError(f"{path} has no position in its EXIF data and no line in a CSV")
            picture, _ = read_image(path)
        except NextsetError as error:
            skipped.append(str(error))
            continue
        photos.append(load_photo(picture, size))
        positions.append((found.lat, found.lon))
    if not photos:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise NextsetError(f"{source} holds no photo with a position ({len(skipped)} were skipped{first})")
    return Placed(np.stack(photos), positions, skipped, min(lengths, default=None))


def _listed(source: Path) -> Iterator[tuple[Path, Position | None, int | None]]:
    """Photos, with their positions and the length of their sequence where a CSV says them."""
    if not source.exists():
        raise NextsetError(f"{source} does not exist; give a folder of photos, or a CSV with {', '.join(_COLUMNS)}")
    if source.is_dir() and not (source / "photos.csv").exists():
        yield from ((path, None, None) for path in sorted(source.rglob("*")) if path.suffix.lower() in ENDINGS)
        return
    table = source / "photos.csv" if source.is_dir() else source
    with table.open(newline="", encoding="utf-8") as handle:
        rows = csv.DictReader(handle)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or [])]
        if missing:
            raise NextsetError(f"{table} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}")
        for number, row in enumerate(rows, start=2):
            where = f"{table}, line {number}"
            try:
                lat, lon = float(row["latitude"]), float(row["longitude"])
            except (TypeError, ValueError) as error:
                raise NextsetError(f"{where}: latitude and longitude must be numbers ({error})") from error
            check_position(lat, lon, where)
            yield table.parent / (row["path"] or ""), Position(lat, lon), _length(row.get("sequence"), where)


def _length(text: str | None, where: str) -> int | None:
    """How many cells a sequence such as "[7, 6, 6, 5]" has."""
    if not text:
        return None
    try:
        return len([int(cell) for cell in json.loads(text)])
    except (ValueError, TypeError) as error:
        raise NextsetError(
            f"{where}: sequence is {text!r}, but must be cells in brackets, such as [7, 6, 6, 5]"
        ) from error
