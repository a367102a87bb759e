"""The testbed `city`: a procedural city that is looked at from above and, by `city_streets`, from its streets.

Everything is a function of (seed, side): districts of a style, roads, a river, lots with buildings, parks and towers, and
the sun's shadows, on a raster of 1 m. It is a `Ground`: north-up views of any square, for whoever locates photos. Cities of
other seeds are other places; each lies alone in the sea. Source: sheet `just_zoom_in`, Synthetic benchmark; what the
sheet leaves open (pavements, road marks, sizes of trees) is chosen for the eye.

Coordinates: x grows to the east, y to the south, in metres from the north-west corner; pixel (row, column) of a raster
covers [row, row + 1) x [column, column + 1). H is the height of what stands there, 0 on the ground.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nextset.core.errors import check_range
from nextset.data.city_plan import Painted, hashed, paint

EARTH = 6378137.0  # metres, of the sphere that all coordinates are on
UNKNOWN = 127  # grey of ground that nobody knows
_LATITUDE, _LONGITUDE, _APART = 36.0, -40.0, 0.25  # in the Atlantic, where no map has anything


class City:
    """A square city (a `Ground`).

    seed: which one, 0..9999. side: metres, 320..10240; a multiple of 320 keeps the districts whole. lat, lon: its centre,
    in degrees. start: (lat, lon, side) of the square that is searched. native_mpp: metres a pixel of its raster.
    Memory: about 25 bytes a square metre, 40 where side is above 4096.
    """

    native_mpp = 1.0

    def __init__(self, seed: int = 0, side: int = 2560) -> None:
        check_range("seed", seed, 0, 9999)
        check_range("side", side, 320, 10240)
        self.seed, self.side = int(seed), int(side)
        self.lat = _LATITUDE + _APART * (self.seed // 100)
        self.lon = _LONGITUDE + _APART * (self.seed % 100)

    @property
    def start(self) -> tuple[float, float, float]:
        """Centre and side of the city."""
        return self.lat, self.lon, float(self.side)

    # ---- the rasters

    @cached_property
    def painted(self) -> Painted:
        """The city on its raster, made on first use."""
        return paint(self.seed, self.side)

    @cached_property
    def sums(self) -> np.ndarray:
        """Summed-area table of the colours seen from above, whole numbers (side + 1, side + 1, 3)."""
        kind = np.uint32 if self.side <= 4096 else np.uint64  # 255 * 4096^2 is below 2^32
        sums = np.zeros((self.side + 1, self.side + 1, 3), dtype=kind)
        np.cumsum(self.painted.top, axis=0, dtype=kind, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, dtype=kind, out=sums[1:, 1:])
        return sums

    # ---- coordinates

    def metres(self, lat: Tensor, lon: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) in metres, float64, of latitudes and longitudes in degrees."""
        lat, lon = lat.double(), lon.double()
        east = EARTH * torch.deg2rad(lon - self.lon) * torch.cos(torch.deg2rad(lat))
        return self.side / 2 + east, self.side / 2 - EARTH * torch.deg2rad(lat - self.lat)

    def degrees(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(latitude, longitude) in degrees, float64: the inverse of `metres`."""
        lat = self.lat + torch.rad2deg((self.side / 2 - y.double()) / EARTH)
        east = x.double() - self.side / 2
        return lat, self.lon + torch.rad2deg(east / (EARTH * torch.cos(torch.deg2rad(lat))))

    # ---- from above

    def view(self, lat: Tensor, lon: Tensor, side_m: Tensor, pixels: int) -> Tensor:
        """North-up pictures of squares: float32 (N, 3, pixels, pixels) in [-1, 1].

        lat, lon (N,): centres in degrees; side_m (N,): sides in metres. A pixel is the exact mean of what it covers;
        ground outside the city is grey.
        """
        check_range("pixels", pixels, 1, 4096)
        x, y = self.metres(lat, lon)
        half, steps = side_m.double() / 2, torch.linspace(0, 1, pixels + 1, dtype=torch.float64)
        columns = (x - half)[:, None] + 2 * half[:, None] * steps
        rows = (y - half)[:, None] + 2 * half[:, None] * steps
        few = max(1, 2**21 // (pixels + 1) ** 2)
        parts = [self.boxes(rows[i : i + few].numpy(), columns[i : i + few].numpy()) for i in range(0, len(x), few)]
        return torch.cat([torch.from_numpy(part) for part in parts]) if parts else torch.zeros(0, 3, pixels, pixels)

    def boxes(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Means between edges: (n, p + 1) each -> float32 (n, 3, p, p)."""
        inside = [edges.clip(0, self.side) for edges in (rows, columns)]
        corners = self._integral(*inside)  # (n, p + 1, p + 1, 3)
        total = corners[:, 1:, 1:] - corners[:, :-1, 1:] - corners[:, 1:, :-1] + corners[:, :-1, :-1]
        known = np.diff(inside[0])[:, :, None] * np.diff(inside[1])[:, None, :]
        whole = np.diff(rows)[:, :, None] * np.diff(columns)[:, None, :]
        mean = (total + UNKNOWN * (whole - known)[..., None]) / whole[..., None]
        return (mean / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy()

    def _integral(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Sum of colour north-west of points: between whole metres it is linear in either direction, so nothing is lost."""
        y, x = (edges.astype(np.int64).clip(max=self.side - 1) for edges in (rows, columns))
        fy, fx = (rows - y)[:, :, None, None], (columns - x)[:, None, :, None]
        y, x = y[:, :, None], x[:, None, :]
        s = self.sums
        north = s[y, x] * (1 - fx) + s[y, x + 1] * fx
        south = s[y + 1, x] * (1 - fx) + s[y + 1, x + 1] * fx
        return north * (1 - fy) + south * fy

    # ---- places to stand

    def stands(self, count: int, stream: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where photos are taken: x, y (count,) on roads, and headings (count,) in degrees from north, clockwise.

        A heading follows the longest of the four free directions, up to 10 degrees aside. stream: another number gives
        other places.
        """
        rows, columns = np.nonzero(self.painted.road)
        n = np.arange(count)
        u = [hashed(self.seed, 101 + i, stream, n) for i in range(4)]
        at = (u[0] * len(rows)).astype(np.int64)
        x, y = columns[at] + u[1], rows[at] + u[2]
        free = np.stack([self._free(x, y, dx, dy) for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0))])
        # a stable choice among equals: the first, but a hash decides between the two ends of one road
        free = free + 1e-3 * np.stack([hashed(self.seed, 111 + i, stream, n) for i in range(4)])
        return x, y, (90.0 * free.argmax(0) + 20 * u[3] - 10) % 360

    def _free(self, x: np.ndarray, y: np.ndarray, dx: int, dy: int, far: int = 300) -> np.ndarray:
        """Metres from (x, y) to the first thing that stands in a direction, or to the city's end; at most `far`."""
        steps = np.arange(2, far, 2)
        columns = (x[:, None] + dx * steps).astype(np.int64)
        rows = (y[:, None] + dy * steps).astype(np.int64)
        out = (columns < 0) | (rows < 0) | (columns >= self.side) | (rows >= self.side)
        out |= self.painted.height[rows.clip(0, self.side - 1), columns.clip(0, self.side - 1)] > 0
        return np.where(out.any(1), steps[out.argmax(1)], far)

    @property
    def share_within(self) -> float:
        """Share of the city's area within 100 m of a point: what a guess at random reaches."""
        return math.pi * 100.0**2 / self.side**2
