"""How the city of `city` is laid out and painted: roads, a river, lots, parks, towers, shadows.

Uniforms come from a hash of (seed, keys), so a city is the same on every machine. Source: sheet `just_zoom_in`, Synthetic
benchmark.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from nextset.core.splitmix import mix

ROAD, PAVEMENT, RIVER, LOT, DISTRICT = 12, 16, 44, 32, 320  # metres
SHADE, SLOPE, REACH = 0.55, 1.8, 39  # of shadows: brightness, metres of height a pixel of diagonal, pixels
# streams of the hash
_SITE, _STYLE, _LINE, _DROP, _RIVER, _LOT, _TREE, _GRASS = range(1, 9)


@dataclasses.dataclass
class Painted:
    """Rasters of a city, (side, side) each.

    height float32; top uint8 (..., 3), as seen from above; road bool; green bool, of plants; thing int32, what stands
    there, 0 for nothing. Of thing i: facade uint8 (things, 3), tower bool, tree bool (things,).
    """

    height: np.ndarray
    top: np.ndarray
    road: np.ndarray
    green: np.ndarray
    thing: np.ndarray
    facade: np.ndarray
    tower: np.ndarray
    tree: np.ndarray


def hashed(seed: int, *keys: int | np.ndarray) -> np.ndarray:
    """Uniforms in [0, 1) of (seed, keys), float64 of the keys' common shape."""
    h = mix(np.asarray(seed, dtype=np.uint64))
    for key in keys:
        h = mix(h ^ np.asarray(key).astype(np.uint64))
    return (h >> np.uint64(40)).astype(np.float64) / 2**24


def rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV in [0, 1] to colours uint8 (..., 3)."""
    k = (np.asarray([5.0, 3.0, 1.0]) + 6 * np.asarray(hue)[..., None]) % 6
    level = value[..., None] * (1 - saturation[..., None] * np.minimum(k, 4 - k).clip(0, 1))
    return (255 * level + 0.5).astype(np.uint8)


def lines(seed: int, side: int, axis: int) -> list[int]:
    """Centres of the roads across an axis: 90 to 170 m apart."""
    found, at = [], 30 + 60 * float(hashed(seed, _LINE, axis, 0))
    while at < side - ROAD:
        found.append(int(at))
        at += 90 + 80 * float(hashed(seed, _LINE, axis, len(found)))
    return found


def styles(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Style in [0, 1) of the district of each point: that of the nearest site, one somewhere in each cell of 320 m."""
    cx, cy = (np.asarray(v / DISTRICT).astype(np.int64) for v in (x, y))
    best, style = np.full(x.shape, np.inf), np.zeros(x.shape)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            kx, ky = cx + dx + 1, cy + dy + 1  # keys are not negative
            sx = (kx - 1 + hashed(seed, _SITE, 0, kx, ky)) * DISTRICT
            sy = (ky - 1 + hashed(seed, _SITE, 1, kx, ky)) * DISTRICT
            far = (x - sx) ** 2 + (y - sy) ** 2
            style = np.where(far < best, hashed(seed, _STYLE, kx, ky), style)
            best = np.minimum(far, best)
    return style


def paint(seed: int, side: int) -> Painted:
    """The city of a seed on a raster of side x side metres."""
    cells = np.arange(-(-side // 3))
    grass = 0.84 + 0.32 * hashed(seed, _GRASS, cells[:, None], cells[None])  # texture of 3 m
    ground = grass.astype(np.float32).repeat(3, 0).repeat(3, 1)[:side, :side, None]
    p = Painted(
        np.zeros((side, side), np.float32),
        (ground * np.array([104, 136, 74], np.float32)).astype(np.uint8),
        np.zeros((side, side), bool),
        np.ones((side, side), bool),
        np.zeros((side, side), np.int32),
        np.zeros((1, 3), np.uint8),
        np.zeros(1, bool),
        np.zeros(1, bool),
    )
    wet = _river(p, seed, side)
    xs, ys = lines(seed, side, 0), lines(seed, side, 1)
    _roads(p, seed, side, xs, ys)
    _build(p, seed, side, xs, ys, wet)
    dark = shadows(p.height)
    p.top[dark] = (p.top[dark] * SHADE).astype(np.uint8)
    return p


def _river(p: Painted, seed: int, side: int) -> np.ndarray:
    """A river along a sine, from north to south or from west to east; returns where it is."""
    u = hashed(seed, _RIVER, np.arange(5))
    along = np.arange(side) + 0.5
    bend, wave = (0.05 + 0.09 * u[0]) * side, 2 * np.pi / ((0.6 + 0.7 * u[1]) * side)
    middle = (0.25 + 0.5 * u[2]) * side + bend * np.sin(wave * along + 2 * np.pi * u[3])
    slope = bend * wave * np.cos(wave * along + 2 * np.pi * u[3])
    half = RIVER / 2 * np.sqrt(1 + slope**2)  # so wide across its own direction
    wet = np.abs(along[None] - middle[:, None]) < half[:, None]
    if u[4] < 0.5:
        wet = wet.T
    p.top[wet] = (52, 92, 122)
    p.green[wet] = False
    return wet


def _roads(p: Painted, seed: int, side: int, xs: list[int], ys: list[int]) -> None:
    """Segments between crossings, some of them left out: pavements, then asphalt, then dashes along the middle."""
    segments = []
    for axis, (own, other) in enumerate(((xs, ys), (ys, xs))):
        ends = [0, *other, side]
        for i, at in enumerate(own):
            for j, (a, b) in enumerate(pairwise(ends)):
                if hashed(seed, _DROP, axis, i, j) >= 0.12:
                    segments.append((axis, at, max(a - ROAD // 2, 0), min(b + ROAD // 2, side)))
    for width, colour in ((PAVEMENT, (168, 164, 158)), (ROAD, (84, 84, 88))):
        for axis, at, a, b in segments:
            across = slice(max(at - width // 2, 0), at + width // 2)
            where = (slice(a, b), across) if axis == 0 else (across, slice(a, b))
            p.top[where], p.green[where] = colour, False
            p.road[where] |= width == ROAD
    for axis, at, a, b in segments:
        for d in range(a + ROAD + 4, b - ROAD - 4, 8):
            dash, middle = slice(d, d + 4), slice(at, at + 1)
            p.top[(dash, middle) if axis == 0 else (middle, dash)] = (200, 198, 186)


def _build(p: Painted, seed: int, side: int, xs: list[int], ys: list[int], wet: np.ndarray) -> None:
    """Lots of about 32 m in the blocks between roads, and what stands on them."""
    lots = np.array([lot for k, ends in enumerate(_blocks(xs, ys, side)) for lot in _cut(k, *ends)])
    if not len(lots):
        return
    block, number, x0, x1, y0, y1 = lots.T
    s = styles(seed, (x0 + x1) / 2, (y0 + y1) / 2)
    u = [hashed(seed, _LOT, i, block, number) for i in range(12)]
    park = s < 0.14
    tower = ~park & (u[0] < 0.03)
    house = ~park & (tower | (u[1] < 0.55 + 0.4 * s))
    height = np.where(tower, 60 + 60 * u[2], 4 + (22 * s**2 + 6) * u[2])
    hue = np.where(tower, u[3], 7.3 * s + 0.18 * (u[3] - 0.5)) % 1
    saturation = np.where(tower, 0.75 + 0.2 * u[4], 0.12 + 0.5 * u[4])
    value = np.where(tower, 0.7 + 0.3 * u[5], 0.45 + 0.5 * u[5])
    roof, facade = rgb(hue, saturation, value), rgb((hue + 0.08) % 1, saturation, value)
    facade[tower] = roof[tower]  # a landmark has one colour from everywhere
    wide, deep = x1 - x0, y1 - y0
    inset = [0.04 + 0.16 * u[6 + i] for i in range(4)]
    left, right = (x0 + inset[0] * wide).astype(int), (x1 - inset[1] * wide).astype(int)
    top, bottom = (y0 + inset[2] * deep).astype(int), (y1 - inset[3] * deep).astype(int)
    things: list[tuple[np.ndarray, bool, bool]] = []
    for i in range(len(lots)):
        if wet[y0[i] : y1[i], x0[i] : x1[i]].any():
            continue
        if house[i]:
            where = slice(top[i], bottom[i]), slice(left[i], right[i])
            inner = slice(top[i] + 1, bottom[i] - 1), slice(left[i] + 1, right[i] - 1)
            things.append((facade[i], bool(tower[i]), False))
            p.height[where], p.thing[where], p.green[where] = height[i], len(things), False
            p.top[where], p.top[inner] = (roof[i] * 0.82).astype(np.uint8), roof[i]  # a parapet around the roof
        else:
            colour = rgb(*(np.asarray(v) for v in (0.29 + 0.05 * u[3][i], 0.55, 0.38 + 0.14 * u[4][i])))
            things.append((colour, False, True))
            trees = 6 if park[i] else int(3 * u[10][i])
            _trees(p, seed, block[i], number[i], trees, (x0[i], x1[i], y0[i], y1[i]), len(things), colour)
    colours, towers, plants = zip(*things, strict=True)
    p.facade = np.concatenate([p.facade, np.stack(colours)])
    p.tower, p.tree = np.array([False, *towers]), np.array([False, *plants])


def _blocks(xs: list[int], ys: list[int], side: int) -> list[tuple[int, int, int, int]]:
    """(x0, x1, y0, y1) of the ground between pavements."""
    gap = PAVEMENT // 2
    spans = [[(a + gap * (a > 0), b - gap * (b < side)) for a, b in pairwise([0, *own, side])] for own in (xs, ys)]
    return [(x0, x1, y0, y1) for x0, x1 in spans[0] for y0, y1 in spans[1]]


def _cut(block: int, x0: int, x1: int, y0: int, y1: int) -> list[tuple[int, ...]]:
    """(block, number, x0, x1, y0, y1) of the lots of a block; what is narrower than half a lot stays empty."""
    if min(x1 - x0, y1 - y0) < LOT // 2:
        return []
    across, down = (max(1, round(n / LOT)) for n in (x1 - x0, y1 - y0))
    x = np.linspace(x0, x1, across + 1).astype(int)
    y = np.linspace(y0, y1, down + 1).astype(int)
    return [(block, j * across + i, x[i], x[i + 1], y[j], y[j + 1]) for j in range(down) for i in range(across)]


def _trees(
    p: Painted,
    seed: int,
    block: int,
    number: int,
    count: int,
    lot: tuple[int, int, int, int],
    thing: int,
    colour: np.ndarray,
) -> None:
    """Round trees of 6 to 10 m on a lot; they are lighter in the middle."""
    u = hashed(seed, _TREE, block, number, np.arange(count)[:, None], np.arange(4)[None])
    x0, x1, y0, y1 = lot
    for a, b, c, d in u.tolist():
        r = 2.0 + 2.0 * c
        cx, cy = x0 + r + a * (x1 - x0 - 2 * r), y0 + r + b * (y1 - y0 - 2 * r)
        where = slice(max(int(cy - r), y0), int(cy + r) + 1), slice(max(int(cx - r), x0), int(cx + r) + 1)
        yy, xx = np.mgrid[where]
        far = ((xx + 0.5 - cx) ** 2 + (yy + 0.5 - cy) ** 2) / r**2
        disc = far < 1
        p.height[where][disc] = 6 + 4 * d
        p.thing[where][disc] = thing
        p.top[where][disc] = (colour * (1.1 - 0.35 * far[disc])[:, None]).clip(0, 255).astype(np.uint8)


def shadows(height: np.ndarray) -> np.ndarray:
    """Where the sun from the north-west does not reach, bool: H(y - k, x - k) > H + 1.8 k for some k < 40."""

    def moved(a: np.ndarray, k: int) -> np.ndarray:
        """a(y - k, x - k), lower by the ray's fall."""
        out = np.full_like(a, -1e9)
        out[k:, k:] = a[:-k, :-k] - np.float32(SLOPE * k)
        return out

    # the highest ray from up to 1, 2, 4, ... pixels away; windows that overlap do no harm to a maximum
    ray, known = moved(height, 1), 1
    while known < REACH:
        k = min(known, REACH - known)
        ray, known = np.maximum(ray, moved(ray, k)), known + k
    return ray > height
