"""Maps as people have them, behind `Ground`: tile pyramids, MBTiles, GeoTIFF, a picture with its bounds.

`open_map` finds out what a path is. Here is also what all maps but GeoTIFF share: how north-up squares are read from pixels
that lie along parallels and meridians. Nothing is read before it is looked at, and what was read lately is kept, within a
limit. Source: sheet `just_zoom_in`, User-facing behaviour; where it leaves something open (a parent tile is enlarged without
smoothing) it is said there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.data.city import EARTH, UNKNOWN

Region = tuple[float, float, float]
"""Latitude and longitude of a centre in degrees, side in metres."""

_BAND = 2**22  # pixels of a map that are held at once while they are averaged
KEPT = 16  # of the last views that needed averaging: the first view is the same for every photo


def open_map(path: str | Path, region: Region | None = None) -> SampledMap:
    """The map of a path: a folder of tiles `z/x/y.png|jpg|webp`, an `.mbtiles`, a GeoTIFF (extra `geo`), or a picture with a
    `bounds.json` or a world file beside it. region: the square to search; by default the largest in the map's middle.
    """
    from nextset.data import maps_raster, maps_tiles

    path = Path(path)
    if not path.exists():
        raise NextsetError(
            f"map {str(path)!r} does not exist; give a folder of tiles, an .mbtiles, or a picture with bounds"
        )
    found: SampledMap
    if path.is_dir():
        found = maps_tiles.TileMap(maps_tiles.TileFolder(path))
    elif path.suffix.lower() == ".mbtiles":
        found = maps_tiles.TileMap(maps_tiles.MBTiles(path))
    else:
        found = maps_raster.open_raster(path)
    if region is not None:
        found.search(region)
    return found


def square_of(bounds: Sequence[float], name: str) -> Region:
    """The largest square in the middle of (west, south, east, north), degrees; what is no bounds is refused in the name of
    its file."""
    numbers = [float(b) for b in bounds] if all(isinstance(b, (int, float)) for b in bounds) else []
    if len(numbers) != 4 or not all(math.isfinite(b) for b in numbers):
        raise NextsetError(f"{name}: bounds are {list(bounds)!r}, but must be four numbers: west, south, east, north")
    west, south, east, north = numbers
    if not (-90 < south < north < 90 and -180 <= west < east <= 180):
        raise NextsetError(
            f"{name}: bounds are {numbers}, but must be west < east in -180..180, south < north in -90..90"
        )
    lat, lon = (south + north) / 2, (west + east) / 2
    down = EARTH * math.radians(north - south)
    across = EARTH * math.radians(east - west) * math.cos(math.radians(lat))
    return lat, lon, min(down, across)


class SampledMap:
    """A map of pixels (a `Ground`).

    name: what messages call it. bounds: (west, south, east, north) in degrees, or None where nobody knows them. missing:
    share of the last view's squares that no pixel is known of (N,). A subclass says how places become pixels and reads
    blocks of them.
    """

    name: str
    bounds: tuple[float, float, float, float] | None = None
    native_mpp: float
    start: Region

    def __init__(self) -> None:
        self.missing = np.zeros(0)
        self._views: dict[tuple[float, ...], tuple[np.ndarray, float]] = {}
        self._said = 0.0

    # ---- what a subclass says

    def level(self, mpp: float, lat: float) -> int:
        """Which of its levels of detail serves `mpp` metres a pixel at a latitude."""
        raise NotImplementedError

    def metres(self, level: int, lat: float) -> float:
        """Metres a pixel of a level."""
        raise NotImplementedError

    def pixels(self, level: int, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of longitudes and rows of latitudes (n,); a pixel's centre is a whole number."""
        raise NotImplementedError

    def block(self, level: int, left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Colours uint8 (height, width, 3) and which of them are known, bool (height, width)."""
        raise NotImplementedError

    # ---- views

    def search(self, region: Region) -> None:
        """Search this square from now on, whose centre must lie on the map."""
        lat, lon, side = region
        check_range("latitude of the region", lat, -85, 85)
        check_range("longitude of the region", lon, -180, 180)
        check_range("side of the region", side, 1, 1e6, remedy="it is in metres")
        if not bool(self.covers(torch.tensor([lat]), torch.tensor([lon]))):
            raise NextsetError(f"the region's centre {lat:.5f}, {lon:.5f} lies outside {self.name}, {self._extent()}")
        self.start = region

    def covers(self, lat: Tensor, lon: Tensor) -> Tensor:
        """Which places (N,) the map shows, as far as its bounds say."""
        if self.bounds is None:
            return torch.ones(len(lat), dtype=torch.bool)
        west, south, east, north = self.bounds
        return (lat >= south) & (lat <= north) & (lon >= west) & (lon <= east)

    def view(self, lat: Tensor, lon: Tensor, side_m: Tensor, pixels: int) -> Tensor:
        """North-up squares: float32 (N, 3, pixels, pixels) in [-1, 1]; unknown ground is grey.

        What was missing stands in `missing`, and is said once, and again when it is more. NextsetError where a level that
        is needed is not there, or where nothing at all is known of the whole searched square.
        """
        check_range("pixels", pixels, 1, 4096)
        made = [self._one(*place, pixels) for place in zip(lat.tolist(), lon.tolist(), side_m.tolist(), strict=True)]
        self.missing = np.array([share for _, share in made])
        self._say(bool((side_m >= self.start[2] * (1 - 1e-9)).all()))
        if not made:
            return torch.zeros(0, 3, pixels, pixels)
        images = torch.from_numpy(np.stack([image for image, _ in made]))
        return (images / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

    def _one(self, lat: float, lon: float, side: float, pixels: int) -> tuple[np.ndarray, float]:
        """One view float32 (pixels, pixels, 3) in 0..255, and which share of it is unknown."""
        key = (lat, lon, side, float(pixels))
        if key in self._views:
            return self._views[key]
        mpp = side / pixels
        level = self.level(mpp, lat)
        k = max(1, math.ceil(mpp / self.metres(level, lat) - 1e-9))
        steps = (np.arange(pixels * k) + 0.5) / k
        lats = lat + np.degrees((pixels / 2 - steps) * mpp / EARTH)
        lons = lon + np.degrees((steps - pixels / 2) * mpp / (EARTH * math.cos(math.radians(lat))))
        columns, rows = self.pixels(level, lats, lons)
        few = max(1, int(_BAND / (max(1.0, np.ptp(columns)) * max(1.0, np.ptp(rows) / pixels))))
        bands = [self._band(level, columns, rows[i * k : (i + few) * k], k) for i in range(0, pixels, few)]
        image, share = np.concatenate([b for b, _ in bands]), float(np.mean(np.concatenate([m for _, m in bands])))
        return self._keep(key, image, share) if k > 1 else (image, share)

    def _keep(self, key: tuple[float, ...], image: np.ndarray, share: float) -> tuple[np.ndarray, float]:
        """Remember a view that took averaging, and forget the oldest."""
        self._views = dict([*self._views.items()][1 - KEPT :])
        self._views[key] = image, share
        return image, share

    def _band(self, level: int, columns: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Some rows of a view: bilinear samples, averaged k by k; and the unknown share of each pixel."""
        x, y = np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
        left, top = int(x.min()), int(y.min())
        colours, known = self.block(level, left, top, int(x.max()) - left + 2, int(y.max()) - top + 2)
        fx, fy = (columns - x).astype(np.float32)[None, :, None], (rows - y).astype(np.float32)[:, None, None]
        across, down = x - left, y - top
        near, far = colours[down], colours[down + 1]
        image = (near[:, across] * (1 - fx) + near[:, across + 1] * fx) * (1 - fy)
        image += (far[:, across] * (1 - fx) + far[:, across + 1] * fx) * fy
        unknown = (~known[down][:, across]).astype(np.float32)
        if k > 1:
            image = image.reshape(len(rows) // k, k, len(columns) // k, k, 3).mean((1, 3), dtype=np.float32)
            unknown = unknown.reshape(len(rows) // k, k, len(columns) // k, k).mean((1, 3))
        return image.astype(np.float32), unknown

    # ---- what is said

    def _say(self, first: bool) -> None:
        """Refuse a search of nothing, and warn of unknown ground. first: whether this was the whole searched square."""
        worst = float(self.missing.max(initial=0))
        if worst >= 1 and first:
            raise NextsetError(
                f"{self.name} shows nothing of the square that is searched; choose a region that it covers, {self._extent()}"
            )
        if worst > self._said + 0.01:
            self._said = worst
            warnings.warn(
                f"{self.name} lacks {100 * worst:.1f} % of a square that is looked at; unknown ground is grey",
                NextsetWarning,
                stacklevel=3,
            )

    def _extent(self) -> str:
        if self.bounds is None:
            return "whose extent is unknown"
        west, south, east, north = self.bounds
        return f"latitude {south:.5f} to {north:.5f}, longitude {west:.5f} to {east:.5f}"


def unknown_block(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A block of which nothing is known yet."""
    return np.full((height, width, 3), UNKNOWN, np.uint8), np.zeros((height, width), bool)
