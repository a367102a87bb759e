"""A city as files: a tile pyramid in Web Mercator, and photos with their positions, as people have them."""

from __future__ import annotations

import csv
import io
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from nextset.core.errors import NextsetError, check_range
from nextset.core.files import atomic_write, write_json
from nextset.data.city import EARTH, City
from nextset.data.city_streets import PhotoOptions, photograph
from nextset.data.geotag import Position, write_photo
from nextset.data.images import from_uint8, save_png, to_pil

TILE = 256


def bounds_of(city: City) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a city in degrees, measured through its centre."""
    up = math.degrees(city.side / 2 / EARTH)
    aside = math.degrees(city.side / 2 / (EARTH * math.cos(math.radians(city.lat))))
    return city.lon - aside, city.lat - up, city.lon + aside, city.lat + up


def export_city(
    folder: str | Path, city: City, *, photos: int = 24, pixels: int = 64, finest: int = 16, stream: int = 1
) -> Path:
    """Write `map/` (tiles z/x/y.png from zoom 12 to `finest`, tilejson.json) and `photos/` (JPEG with EXIF positions, and
    photos.csv) of a city; returns the folder, which appears whole or not at all.

    photos: how many, 0..10000, taken at places of the hash's `stream`, which differ from those of training (stream 0).
    pixels: rows of a photo. finest: zoom of the finest tiles, 12..18; 16 has 1.9 m a pixel.
    """
    check_range("photos", photos, 0, 10000)
    check_range("pixels", pixels, 8, 1024)
    check_range("finest", finest, 12, 18)
    folder = Path(folder)
    if folder.exists():
        raise NextsetError(f"{folder} exists already; choose another place")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _tiles(temporary / "map", city, finest)
        _photos(temporary / "photos", city, photos, pixels, stream)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        raise NextsetError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _tiles(root: Path, city: City, finest: int) -> None:
    """All tiles that touch the city, each the mean of the ground that a pixel covers; outside it they are grey."""
    west, south, east, north = bounds_of(city)
    for z in range(12, finest + 1):
        n = 2**z

        def row(lat: float, n: int = n) -> float:
            return (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n

        for tx in range(int((west + 180) / 360 * n), int((east + 180) / 360 * n) + 1):
            for ty in range(int(row(north)), int(row(south)) + 1):
                save_png(from_uint8(torch.from_numpy(_tile(city, z, tx, ty))), root / str(z) / str(tx) / f"{ty}.png")
    about = {
        "tilejson": "3.0.0",
        "name": f"city {city.seed}",
        "tiles": ["{z}/{x}/{y}.png"],
        "scheme": "xyz",
        "tilesize": TILE,
        "minzoom": 12,
        "maxzoom": finest,
        "bounds": list(bounds_of(city)),
        "attribution": "a procedural city of nextset",
    }
    write_json(root / "tilejson.json", about)


def _tile(city: City, z: int, tx: int, ty: int) -> np.ndarray:
    """A tile uint8 (3, 256, 256): the box filter of the city's raster between the edges of its pixels."""
    world = TILE * 2**z
    lon = (np.arange(TILE + 1) + tx * TILE) / world * 360 - 180
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (np.arange(TILE + 1) + ty * TILE) / world))))
    # columns run along meridians: their place in metres is taken at the tile's middle, which errs by millimetres
    middle = torch.tensor([float(lat[TILE // 2])], dtype=torch.float64)
    x, _ = city.metres(middle.expand(TILE + 1), torch.from_numpy(lon))
    _, y = city.metres(torch.from_numpy(lat), torch.full((TILE + 1,), city.lon, dtype=torch.float64))
    mean = city.boxes(y.numpy()[None], x.numpy()[None])[0]
    return ((mean + 1) * 127.5 + 0.5).astype(np.uint8)


def _photos(root: Path, city: City, count: int, pixels: int, stream: int) -> None:
    root.mkdir(parents=True)
    x, y, heading = city.stands(count, stream)
    lat, lon = (v.tolist() for v in city.degrees(torch.from_numpy(x), torch.from_numpy(y)))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "latitude", "longitude", "heading"])
    for i in range(count):
        shot = photograph(
            city, x[i : i + 1], y[i : i + 1], heading[i : i + 1], pixels, PhotoOptions(), np.array([i]), stream
        )
        name = f"{i:04d}.jpg"
        write_photo(root / name, to_pil(from_uint8(shot.photos[0])), Position(lat[i], lon[i], float(heading[i])))
        writer.writerow([name, f"{lat[i]:.8f}", f"{lon[i]:.8f}", f"{heading[i]:.2f}"])
    with atomic_write(root / "photos.csv") as handle:
        handle.write(table.getvalue().encode())
