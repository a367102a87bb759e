"""Maps in one file: a picture with its bounds, and GeoTIFF in any projection (extra `geo`: rasterio).

A picture is read whole; a GeoTIFF through windows, reduced as they are read, so that memory does not depend on its size.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from nextset.core.errors import NextsetError
from nextset.core.files import read_json
from nextset.data.city import EARTH, UNKNOWN
from nextset.data.images import read_image
from nextset.data.maps import SampledMap, square_of

_WORLD = {".png": ".pgw", ".jpg": ".jgw", ".jpeg": ".jgw", ".webp": ".wpw"}
_TIFF = (".tif", ".tiff", ".vrt")
_PIXELS = 170_000_000  # of a picture that is read whole
_CACHE = 64  # MB that GDAL keeps
_OVER = 3.0  # a window is read with so many pixels for each of the view's, then sampled


def open_raster(path: Path) -> SampledMap:
    """The map of a picture file: bounds beside it (`bounds.json`, a world file), or in it (GeoTIFF)."""
    if (bounds := _bounds_beside(path)) is not None:
        return PictureMap(path, bounds)
    if path.suffix.lower() in _TIFF:
        return GeoTiff(path)
    raise NextsetError(
        f"{path} does not say where it lies; put a bounds.json with west, south, east, north beside it, or a world file"
    )


def _bounds_beside(path: Path) -> tuple[float, ...] | None:
    """(west, south, east, north) of `NAME.bounds.json`, `bounds.json` or a world file; None where there is none."""
    for beside in (path.with_suffix(".bounds.json"), path.with_name("bounds.json")):
        if beside.exists():
            said = read_json(beside)
            names = ("west", "south", "east", "north")
            if not isinstance(said, dict) or not all(name in said for name in names):
                raise NextsetError(f"{beside} must have the numbers west, south, east and north, in degrees")
            return tuple(said[name] for name in names)
    if path.suffix.lower() in _TIFF:
        return None  # rasterio reads world files itself, and knows the projection
    for beside in (path.with_suffix(_WORLD.get(path.suffix.lower(), ".wld")), path.with_suffix(".wld")):
        if beside.exists():
            return _world(beside, path)
    return None


def _world(file: Path, path: Path) -> tuple[float, ...]:
    try:
        a, d, b, e, c, f = (float(line) for line in file.read_text().split())
    except (ValueError, OSError) as error:
        raise NextsetError(f"{file} is no world file: it must hold six numbers ({error})") from error
    if d or b:
        raise NextsetError(f"{file} turns the picture; only north-up maps are read: make it north-up with gdalwarp")
    width, height = read_image(path)[0].size
    west, north = c - a / 2, f - e / 2
    bounds = west, north + e * height, west + a * width, north
    if max(map(abs, bounds[::2])) > 180 or max(map(abs, bounds[1::2])) > 90:
        raise NextsetError(f"{file} counts in metres of a projection that it does not name; give degrees, or a GeoTIFF")
    return bounds


class PictureMap(SampledMap):
    """One picture whose rows are parallels and whose columns are meridians, evenly spaced in degrees."""

    def __init__(self, path: Path, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self.name = str(path)
        self.start = square_of(bounds, self.name)
        self.bounds = (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
        self._colours = np.asarray(read_image(path, max_pixels=_PIXELS)[0])
        self.native_mpp = self.metres(0, self.start[0])

    def level(self, mpp: float, lat: float) -> int:
        """There is one."""
        return 0

    def metres(self, level: int, lat: float) -> float:
        """See `SampledMap`: the finer of both directions."""
        assert self.bounds is not None
        west, south, east, north = self.bounds
        height, width, _ = self._colours.shape
        across = EARTH * math.radians(east - west) * math.cos(math.radians(lat)) / width
        return min(across, EARTH * math.radians(north - south) / height)

    def pixels(self, level: int, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SampledMap`."""
        assert self.bounds is not None
        west, south, east, north = self.bounds
        height, width, _ = self._colours.shape
        return (lon - west) / (east - west) * width - 0.5, (north - lat) / (north - south) * height - 0.5

    def block(self, level: int, left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """See `SampledMap`."""
        tall, wide, _ = self._colours.shape
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        colours = self._colours[rows.clip(0, tall - 1)[:, None], columns.clip(0, wide - 1)]
        # the half pixel around a picture's outermost centres belongs to it: its edge is not mixed with the unknown
        known = ((rows >= -1) & (rows <= tall))[:, None] & ((columns >= -1) & (columns <= wide))
        colours[~known] = UNKNOWN
        return colours, known


class GeoTiff(SampledMap):
    """A GeoTIFF in any projection. It is never read whole: each view reads one window, reduced while it is read, from
    overviews where the file has them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        try:
            self._rasterio = importlib.import_module("rasterio")
            self._warp = importlib.import_module("rasterio.warp")
            self._windows = importlib.import_module("rasterio.windows")
        except ImportError as error:
            raise NextsetError(
                f"{path} is a GeoTIFF, which needs rasterio; install it with pip install 'nextset[geo]'"
            ) from error
        try:
            self._file: Any = self._rasterio.open(path)
        except self._rasterio.errors.RasterioError as error:
            raise NextsetError(f"{path} is no GeoTIFF that can be read ({error}); give another map") from error
        if self._file.crs is None:
            raise NextsetError(
                f"{path} does not say its projection; write it with gdal_edit, or give a bounds.json beside it"
            )
        if self._file.count < 1 or self._file.dtypes[0] != "uint8":
            raise NextsetError(
                f"{path} holds {self._file.dtypes[0]}, but 8 bits a colour are read; convert it with gdal_translate -ot Byte"
            )
        west, south, east, north = self._warp.transform_bounds(self._file.crs, "EPSG:4326", *self._file.bounds)
        self.start = square_of((west, south, east, north), self.name)
        self.bounds = (west, south, east, north)
        lat, lon, _ = self.start
        x, y = self._places(np.array([lat, lat, lat + 1e-4]), np.array([lon, lon + 1e-4, lon]))
        step = math.radians(1e-4) * EARTH
        across = step * math.cos(math.radians(lat)) / math.hypot(x[1] - x[0], y[1] - y[0])
        self.native_mpp = min(across, step / math.hypot(x[2] - x[0], y[2] - y[0]))

    def _places(self, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of places (n,); a pixel's corner is a whole number."""
        x, y = self._warp.transform("EPSG:4326", self._file.crs, lon.tolist(), lat.tolist())
        back = ~self._file.transform
        x, y = np.asarray(x), np.asarray(y)
        return back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f

    def _one(self, lat: float, lon: float, side: float, pixels: int) -> tuple[np.ndarray, float]:
        key = (lat, lon, side, float(pixels))
        if key in self._views:
            return self._views[key]
        mpp = side / pixels
        k = 2 if mpp > self.native_mpp else 1  # the window is reduced to about this many samples a pixel
        steps = (np.arange(pixels * k) + 0.5) / k
        lats = lat + np.degrees((pixels / 2 - steps) * mpp / EARTH)
        lons = lon + np.degrees((steps - pixels / 2) * mpp / (EARTH * math.cos(math.radians(lat))))
        columns, rows = (v.reshape(len(steps), -1) for v in self._places(*(
            g.ravel() for g in np.meshgrid(lats, lons, indexing="ij"))))  # fmt: skip
        colours, known, (x, y) = self._window(columns, rows, pixels)
        image = _bilinear(colours, x, y)
        near = y.round().astype(int).clip(0, known.shape[0] - 1), x.round().astype(int).clip(0, known.shape[1] - 1)
        seen = known[near] & (x > -1) & (y > -1) & (x < known.shape[1]) & (y < known.shape[0])
        image = np.where(seen[..., None], image, UNKNOWN)
        image = image.reshape(pixels, k, pixels, k, 3).mean((1, 3)).astype(np.float32)
        return self._keep(key, image, float(1 - seen.mean())) if k > 1 else (image, float(1 - seen.mean()))

    def _window(
        self, columns: np.ndarray, rows: np.ndarray, pixels: int
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The window around places, reduced: colours (h, w, 3), known (h, w), and where the places lie in it."""
        f = self._file
        x0, x1 = max(math.floor(columns.min()) - 2, 0), min(math.ceil(columns.max()) + 2, f.width)
        y0, y1 = max(math.floor(rows.min()) - 2, 0), min(math.ceil(rows.max()) + 2, f.height)
        if x0 >= x1 or y0 >= y1:
            nothing = np.full((1, 1, 3), UNKNOWN, np.uint8), np.zeros((1, 1), bool)
            return *nothing, (columns * 0, rows * 0)
        most = math.ceil(_OVER * pixels)
        h, w = min(y1 - y0, most), min(x1 - x0, most)
        window = self._windows.Window(x0, y0, x1 - x0, y1 - y0)
        how = self._rasterio.enums.Resampling.average
        bands = [1, 2, 3] if f.count >= 3 else [1, 1, 1]
        try:
            with self._rasterio.Env(GDAL_CACHEMAX=_CACHE):
                colours = f.read(bands, window=window, out_shape=(3, h, w), resampling=how)
                known = f.read_masks(1, window=window, out_shape=(h, w)) > 0
        except self._rasterio.errors.RasterioError as error:
            raise NextsetError(f"{self.name} is damaged ({error}); get it again") from error
        x, y = (columns - x0) * w / (x1 - x0) - 0.5, (rows - y0) * h / (y1 - y0) - 0.5
        return np.moveaxis(colours, 0, -1), known, (x, y)


def _bilinear(colours: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) at places (n, m) -> float32 (n, m, 3); outside, those of the edge."""
    h, w, _ = colours.shape
    x, y = x.clip(0, w - 1), y.clip(0, h - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = (x - x0).astype(np.float32)[..., None], (y - y0).astype(np.float32)[..., None]
    north = colours[y0, x0] * (1 - fx) + colours[y0, x1] * fx
    return north * (1 - fy) + (colours[y1, x0] * (1 - fx) + colours[y1, x1] * fx) * fy
