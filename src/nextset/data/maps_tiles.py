"""Tile pyramids in Web Mercator: a folder `z/x/y.png|jpg|webp`, or an MBTiles file (SQLite).

Which level serves a view, and which pixel a place is, are exact rules of sheet `just_zoom_in`, User-facing behaviour. A tile
that is missing or damaged is taken from its parent, enlarged without smoothing (chosen), or is unknown ground.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nextset.core.errors import NextsetError
from nextset.core.files import read_json
from nextset.data.city import EARTH
from nextset.data.images import read_image
from nextset.data.maps import SampledMap, square_of, unknown_block

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_TILES = 256  # decoded ones that are kept
_LARGEST = 4096**2  # pixels of a tile


class TileSource(Protocol):
    """Where tiles come from. about: minzoom, maxzoom, bounds, as far as they are said. zooms: levels with tiles."""

    name: str
    about: dict[str, Any]
    zooms: list[int]

    def tile(self, z: int, x: int, y: int) -> bytes | None:
        """A tile's file, y from the north; None where there is none."""
        ...

    def some(self, z: int) -> Iterator[tuple[int, int]]:
        """(x, y) of tiles of a level."""
        ...


class TileFolder:
    """`root/{z}/{x}/{y}.png|jpg|webp`, with a `tilejson.json` or without. Scheme "tms" there counts y from the south."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)
        about = root / "tilejson.json"
        self.about: dict[str, Any] = read_json(about) if about.exists() else {}
        if not isinstance(self.about, dict):
            raise NextsetError(f"{about} is no JSON object; write it as TileJSON has it")
        self.zooms = sorted(
            int(p.name) for p in root.iterdir() if p.is_dir() and p.name.isdecimal() and any(p.iterdir())
        )
        if not self.zooms:
            raise NextsetError(f"{root} holds no tiles; a tile lies at z/x/y.png, such as 16/19293/24641.png")
        self._flipped = self.about.get("scheme", "xyz") == "tms"

    def tile(self, z: int, x: int, y: int) -> bytes | None:
        """See `TileSource`."""
        stem = self.root / str(z) / str(x) / str(2**z - 1 - y if self._flipped else y)
        for ending in ENDINGS:
            try:
                return stem.with_suffix(ending).read_bytes()
            except OSError:
                continue
        return None

    def some(self, z: int) -> Iterator[tuple[int, int]]:
        """See `TileSource`."""
        for column in (self.root / str(z)).iterdir():
            if column.name.isdecimal() and column.is_dir():
                for p in column.iterdir():
                    if p.stem.isdecimal() and p.suffix.lower() in ENDINGS:
                        yield int(column.name), 2**z - 1 - int(p.stem) if self._flipped else int(p.stem)


class MBTiles:
    """A file of MBTiles with pictures in it; it is opened for reading alone."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            rows = self._base.execute("SELECT name, value FROM metadata").fetchall()
            zooms = self._base.execute("SELECT DISTINCT zoom_level FROM tiles ORDER BY 1").fetchall()
        except sqlite3.Error as error:
            raise NextsetError(
                f"{path} is no MBTiles file ({error}); give one with the tables tiles and metadata"
            ) from error
        self.about = dict(rows)
        if str(self.about.get("format", "png")) == "pbf":
            raise NextsetError(f"{path} holds vector tiles (pbf); give one with pictures, such as png, jpg or webp")
        if "bounds" in self.about:
            try:
                self.about["bounds"] = [float(b) for b in str(self.about["bounds"]).split(",")]
            except ValueError as error:
                said = self.about["bounds"]
                raise NextsetError(
                    f"{path}: bounds are {said!r}, but must be four numbers: west,south,east,north"
                ) from error
        self.zooms = [int(z) for (z,) in zooms]
        if not self.zooms:
            raise NextsetError(f"{path} holds no tiles; write it again")

    def tile(self, z: int, x: int, y: int) -> bytes | None:
        """See `TileSource`."""
        where = "zoom_level = ? AND tile_column = ? AND tile_row = ?"
        try:
            row = self._base.execute(f"SELECT tile_data FROM tiles WHERE {where}", (z, x, 2**z - 1 - y)).fetchone()
        except sqlite3.Error as error:
            raise NextsetError(f"{self.name} is damaged ({error}); write it again") from error
        return bytes(row[0]) if row and row[0] else None

    def some(self, z: int) -> Iterator[tuple[int, int]]:
        """See `TileSource`: the outermost tiles, which are all that bounds need."""
        ends = "MIN(tile_column), MIN(tile_row), MAX(tile_column), MAX(tile_row)"
        a, b, c, d = self._base.execute(f"SELECT {ends} FROM tiles WHERE zoom_level = ?", (z,)).fetchone()
        yield from ((a, 2**z - 1 - b), (c, 2**z - 1 - d))


class TileMap(SampledMap):
    """A pyramid of square tiles in Web Mercator. side: pixels a side of a tile."""

    def __init__(self, source: TileSource) -> None:
        super().__init__()
        self.source, self.name, self.zooms = source, source.name, source.zooms
        self.low = self._said_zoom("minzoom", self.zooms[0])
        self.high = self._said_zoom("maxzoom", self.zooms[-1])
        self._decoded = lru_cache(_TILES)(self._decode)
        self.side = self._tile_side()
        bounds = source.about["bounds"] if "bounds" in source.about else self._outermost()
        self.start = square_of(bounds, self.name)
        self.bounds = (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
        self.native_mpp = self.metres(self.high, self.start[0])

    def level(self, mpp: float, lat: float) -> int:
        """The coarsest level whose pixels are no coarser than the view's, as far as there is one."""
        wanted = math.ceil(math.log2(2 * math.pi * EARTH * math.cos(math.radians(lat)) / (self.side * mpp)))
        z = min(max(wanted, self.low), self.high)
        if z not in self.zooms:
            there = ", ".join(map(str, self.zooms))
            raise NextsetError(
                f"{self.name} has no tiles of zoom {z}, which is needed; it has {there}; add that zoom level"
            )
        return z

    def metres(self, level: int, lat: float) -> float:
        """See `SampledMap`."""
        return 2 * math.pi * EARTH * math.cos(math.radians(lat)) / (self.side * 2**level)

    def pixels(self, level: int, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SampledMap`."""
        world = self.side * 2**level
        south = np.arcsinh(np.tan(np.radians(lat.clip(-89, 89)))) / math.pi
        return (lon + 180) / 360 * world - 0.5, (1 - south) / 2 * world - 0.5

    def block(self, level: int, left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """See `SampledMap`."""
        colours, known = unknown_block(width, height)
        t = self.side
        for ty in range(top // t, (top + height - 1) // t + 1):
            for tx in range(left // t, (left + width - 1) // t + 1):
                x0, x1 = max(tx * t, left), min(tx * t + t, left + width)
                y0, y1 = max(ty * t, top), min(ty * t + t, top + height)
                found = self._part(level, tx % 2**level, ty, np.arange(x0, x1) - tx * t, np.arange(y0, y1) - ty * t)
                if found is not None:
                    where = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                    colours[where], known[where] = found, True
        return colours, known

    def _part(self, z: int, tx: int, ty: int, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Pixels (y, x) of a tile, or of its nearest ancestor."""
        if not 0 <= ty < 2**z:
            return None
        for up in range(z - self.zooms[0] + 1):
            tile = self._decoded(z - up, tx >> up, ty >> up)
            if tile is not None:
                own = 2**up - 1
                column = (((tx & own) * self.side + x) >> up).astype(np.int64)
                return tile[(((ty & own) * self.side + y) >> up)[:, None], column]
        return None

    def _decode(self, z: int, x: int, y: int) -> np.ndarray | None:
        data = self.source.tile(z, x, y)
        if data is None:
            return None
        try:
            picture, _ = read_image(data, name=f"tile {z}/{x}/{y} of {self.name}", max_pixels=_LARGEST)
        except NextsetError:  # as good as missing; the share of unknown ground is said
            return None
        if picture.size != (self.side, self.side):
            raise NextsetError(
                f"tile {z}/{x}/{y} of {self.name} is {picture.width}x{picture.height} pixels, but others are "
                f"{self.side}x{self.side}; all tiles must be of one size"
            )
        return np.asarray(picture)

    def _tile_side(self) -> int:
        """As TileJSON says, or as the first tile is."""
        for name in ("tilesize", "tileSize", "tile_size"):
            if isinstance(said := self.source.about.get(name), int) and 16 <= said <= 4096:
                return said
        for z in reversed(self.zooms):
            for x, y in self.source.some(z):
                data = self.source.tile(z, x, y)
                if data is None:
                    continue
                picture, _ = read_image(data, name=f"tile {z}/{x}/{y} of {self.name}", max_pixels=_LARGEST)
                if picture.width != picture.height:
                    raise NextsetError(
                        f"tile {z}/{x}/{y} of {self.name} is {picture.width}x{picture.height}, no square"
                    )
                return picture.width
        raise NextsetError(f"{self.name} holds no tile that can be read; a tile lies at z/x/y.png")

    def _said_zoom(self, name: str, otherwise: int) -> int:
        try:
            return int(self.source.about.get(name, otherwise))
        except (TypeError, ValueError) as error:
            raise NextsetError(f"{self.name}: {name} is {self.source.about[name]!r}, but must be a number") from error

    def _outermost(self) -> list[float]:
        """Bounds of the tiles of the finest level."""
        x, y = np.array(list(self.source.some(self.zooms[-1]))).T
        n = 2 ** self.zooms[-1]

        def lat(row: int) -> float:
            return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / n))))

        west, east = (360 * int(column) / n - 180 for column in (x.min(), x.max() + 1))
        return [west, lat(int(y.max()) + 1), east, lat(int(y.min()))]
