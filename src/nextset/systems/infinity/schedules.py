"""The grids of Infinity's scales for every aspect ratio and number of pixels, and where a cell of each lies.

A ratio is height / width. Each has 13 grids, of which an image of fewer pixels has the first ones. Rotary positions are
those of the largest schedule at every number of pixels, so that a cell means the same place in all of them.
Source: sheet `infinity`, Aspect-ratio table and Model (RoPE).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.errors import NextsetError, nearest
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.nn.rope import Turns, angles, frequencies, turns

Grid = tuple[int, int]
Rope = Literal["normalised", "plain", "resized"]

_TALL = {
    1.0: "1,1 2,2 4,4 6,6 8,8 12,12 16,16 20,20 24,24 32,32 40,40 48,48 64,64",
    1.25: "1,1 2,2 3,3 5,4 10,8 15,12 20,16 25,20 30,24 35,28 45,36 55,44 70,56",
    1.333: "1,1 2,2 4,3 8,6 12,9 16,12 20,15 24,18 28,21 36,27 48,36 60,45 72,54",
    1.5: "1,1 2,2 3,2 6,4 9,6 15,10 21,14 27,18 33,22 39,26 48,32 63,42 78,52",
    1.75: "1,1 2,2 3,3 7,4 11,6 14,8 21,12 28,16 35,20 42,24 56,32 70,40 84,48",
    2.0: "1,1 2,2 4,2 6,3 10,5 16,8 22,11 30,15 38,19 46,23 60,30 74,37 90,45",
    2.5: "1,1 2,2 5,2 10,4 15,6 20,8 25,10 30,12 40,16 50,20 65,26 80,32 100,40",
    3.0: "1,1 2,2 6,2 9,3 15,5 21,7 27,9 36,12 45,15 54,18 72,24 90,30 111,37",
}


def _table() -> dict[float, tuple[Grid, ...]]:
    table: dict[float, tuple[Grid, ...]] = {}
    for ratio, text in _TALL.items():
        grids = tuple((int(h), int(w)) for h, w in (pair.split(",") for pair in text.split()))
        table[ratio] = grids
        table.setdefault(int(1000 / ratio) / 1000, tuple((w, h) for h, w in grids))
    return table


TABLE = _table()
PIXELS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}  # scales of each number of pixels


def nearest_ratio(ratio: float) -> float:
    """The ratio of the table that lies nearest to height / width; the first of the table on ties."""
    return min(TABLE, key=lambda known: abs(known - ratio))


def schedule(ratio: float, pixels: str = "1M") -> tuple[Grid, ...]:
    """(h, w) of each scale for a ratio of the table."""
    if pixels not in PIXELS:
        raise NextsetError(f"pixels is {pixels!r}: {nearest(pixels, PIXELS)}")
    return TABLE[ratio][: PIXELS[pixels]]


@dataclasses.dataclass(frozen=True)
class Grids:
    """The scales of one request. sides: (h, w) of each, coarse to fine. reference: (h, w) that positions are measured in."""

    sides: tuple[Grid, ...]
    reference: Grid
    rope: Rope = "normalised"

    @classmethod
    def of(cls, sides: Sequence[int | Grid], reference: int = 64, rope: Rope = "normalised") -> Grids:
        """Scales that need not be of the table: what they grow to in the table where they are the beginning of a schedule
        of it, else `reference` along the longer side."""
        pairs = tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in sides)
        for grids in TABLE.values():
            if len(pairs) > 2 and grids[: len(pairs)] == pairs:
                return cls(pairs, grids[-1], rope)
        h, w = pairs[-1]
        return cls(pairs, (round(reference * h / max(h, w)), round(reference * w / max(h, w))), rope)

    @property
    def plan(self) -> Plan:
        """One step a scale; the same object for the same sides, since views of its steps are kept in it."""
        return _plan(self.sides)

    def turns(self, width: int, device: torch.device | str = "cpu") -> Turns:
        """(cos, sin), each (L, width / 2), of all slots, for heads of that width: pairs of channels, first those that turn
        with y, then those that turn with x.

        normalised: a cell of a grid (h, w) stands at round(cell * reference / grid), half to even. plain: at the cell.
        resized: the maps of cos and sin of a grid of 128 along the longer side, resized to the scale's. Made once for all
        requests.
        """
        return _turns(self, width, str(device))

    def tables(self, width: int) -> tuple[Tensor, Tensor]:
        """What `turns` keeps."""
        freqs = frequencies(width // 4)
        if self.rope == "resized":
            (h, w), longest = self.reference, 128
            full = (longest, int(longest / h * w)) if h >= w else (int(longest / w * h), longest)
            maps = [m.unflatten(0, full).permute(2, 0, 1)[None] for m in turns(angles(_cells(*full), freqs))]
            each = [[F.interpolate(m, size=s, mode="bilinear", align_corners=True) for s in self.sides] for m in maps]
            return tuple(torch.cat([m[0].flatten(1).T for m in scales]) for scales in each)  # type: ignore[return-value]
        places = []
        for h, w in self.sides:
            cells = _cells(h, w).float()
            if self.rope == "normalised":
                ratio = torch.tensor([self.reference[0] / h, self.reference[1] / w], dtype=torch.float32)
                cells = (cells * ratio).round()
            places.append(cells)
        return turns(angles(torch.cat(places), freqs))


def _cells(h: int, w: int) -> Tensor:
    """(y, x) of each cell in raster order: (h w, 2)."""
    return torch.cartesian_prod(torch.arange(h), torch.arange(w)).view(-1, 2)


@functools.lru_cache(maxsize=64)
def _plan(sides: tuple[Grid, ...]) -> Plan:
    return scale_pyramid(sides)


@functools.lru_cache(maxsize=64)
def _turns(grids: Grids, width: int, device: str) -> Turns:
    return Turns(*(t.to(device) for t in grids.tables(width)))
