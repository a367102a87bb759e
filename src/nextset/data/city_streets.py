"""Photos from the streets of a city, by casting rays on its raster of heights.

A pinhole camera 2.5 m above a road looks along it; 120 degrees wide, P x 2P pixels. For every column of pixels the ground is
sampled along one ray; the steepest slope so far says what a pixel sees, so that a photo costs one cumulative maximum and one
search. Source: sheet `just_zoom_in`, Synthetic benchmark; occluders and the season's hue are chosen.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from nextset.core.configs import Config
from nextset.data.city import City
from nextset.data.city_plan import hashed

EYE = 2.5  # metres above the road
VIEW = 120.0  # degrees, from left to right
FOG = 250.0  # metres, in which all but 1 / e of a colour goes into the sky
SKY = (0.55, 0.70, 0.90)
_NOTHING = -9.0  # slope where nothing stands
_DISTANCES = torch.cat([torch.arange(1, 40, 0.5), torch.arange(40, 120, 1.0), torch.arange(120, 300, 2.0)])
_OPTION = 200  # first stream of the hash that is used here


@dataclasses.dataclass(frozen=True)
class PhotoOptions(Config):
    """What makes photos differ from what a map shows. All are functions of the photo's number.

    exposure: half the range of gains: 0.3 draws them from 0.7 to 1.3. occluders: probability that one to three boxes
    (cars, people) hide parts of the lower half. season: most that plants turn from green to brown, 0..1.
    """

    exposure: float = 0.3
    occluders: float = 0.0
    season: float = 0.0

    def check(self) -> None:
        for name in ("exposure", "occluders", "season"):
            self.require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")


@dataclasses.dataclass
class Shot:
    """Photos uint8 (n, 3, P, 2P), and what each pixel sees: thing int32 (n, P, 2P), 0 where it is ground or sky, and the
    place (x, y) of what it sees, float32 (n, 2, P, 2P) in metres, NaN in the sky."""

    photos: Tensor
    thing: Tensor
    place: Tensor


def photograph(
    city: City,
    x: np.ndarray,
    y: np.ndarray,
    heading: np.ndarray,
    pixels: int,
    options: PhotoOptions | None = None,
    numbers: np.ndarray | None = None,
    stream: int = 0,
) -> Shot:
    """Photos from (x, y) (n,), metres, towards `heading` (n,), degrees clockwise from north.

    pixels: rows of a photo, P. numbers (n,): of the photos, which decide exposure, occluders and season (with `stream`);
    0, 1, ... by default.
    """
    options = options or PhotoOptions()
    numbers = np.arange(len(x)) if numbers is None else numbers
    at, along, towards = (torch.from_numpy(np.asarray(v, np.float32)) for v in (x, y, heading))
    seen = _cast(city, at, along, towards, pixels)
    colour = _colours(city, seen)
    if options.season:
        colour = _season(city, colour, seen, options.season * _u(city, 0, stream, numbers))
    fog = 1 - torch.exp(-seen.far / FOG)
    colour = torch.lerp(colour, torch.tensor(SKY), fog[..., None])
    gain = 1 + options.exposure * (2 * _u(city, 1, stream, numbers) - 1)
    colour = (colour * gain[:, None, None, None]).clamp(0, 1)
    if options.occluders:
        _occlude(city, colour, seen.thing, options.occluders, stream, numbers)
    photos = (colour * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2).contiguous()
    place = torch.stack([seen.x, seen.y], 1).masked_fill(torch.isinf(seen.far)[:, None], float("nan"))
    return Shot(photos, seen.thing, place)


@dataclasses.dataclass
class _Seen:
    """Per pixel (n, P, 2P): where it looks at, the height of that above the ground, its distance (inf: sky), what stands
    there (0: ground)."""

    x: Tensor
    y: Tensor
    z: Tensor
    far: Tensor
    thing: Tensor


def _cast(city: City, x: Tensor, y: Tensor, heading: Tensor, pixels: int) -> _Seen:
    """What every pixel sees."""
    focal = pixels / math.tan(math.radians(VIEW / 2))
    aside = torch.atan((torch.arange(2 * pixels) + 0.5 - pixels) / focal)
    turned = torch.deg2rad(heading)[:, None] + aside
    dx, dy = torch.sin(turned)[..., None], -torch.cos(turned)[..., None]  # (n, 2P, 1)
    d = _DISTANCES
    at = _index(city, x[:, None, None] + dx * d, y[:, None, None] + dy * d)
    height = torch.from_numpy(city.painted.height).view(-1)[at.clamp(min=0)].masked_fill_(at < 0, 0)
    slope = torch.where(height > 0, (height - EYE) / d, _NOTHING).cummax(-1).values
    up = (pixels / 2 - torch.arange(pixels) - 0.5) / focal
    wanted = (torch.cos(aside)[:, None] * up).expand(len(x), -1, -1).contiguous()  # (n, 2P, P)
    hit = torch.searchsorted(slope, wanted)
    wall = torch.cat([d, torch.tensor([math.inf])])[hit]
    ground = torch.where(wanted < 0, EYE / -wanted, math.inf)
    ground = torch.where(ground <= float(d[-1]), ground, math.inf)
    far = torch.minimum(wall, ground)
    reach = torch.where(torch.isinf(far), 0.0, far)
    px, py = x[:, None, None] + dx * reach, y[:, None, None] + dy * reach
    at = _index(city, px, py)
    thing = torch.from_numpy(city.painted.thing).view(-1)[at.clamp(min=0)]
    thing = thing.masked_fill_(~((wall <= ground) & torch.isfinite(wall)) | (at < 0), 0)
    z = (EYE + wanted * reach).clamp(min=0)
    return _Seen(*(v.transpose(1, 2) for v in (px, py, z, far, thing)))


def _index(city: City, x: Tensor, y: Tensor) -> Tensor:
    """Place in a flat raster, -1 outside the city."""
    column, row = x.floor().long(), y.floor().long()
    inside = (column >= 0) & (row >= 0) & (column < city.side) & (row < city.side)
    return torch.where(inside, row * city.side + column, -1)


def _colours(city: City, seen: _Seen) -> Tensor:
    """Colour in [0, 1] (n, P, 2P, 3) before fog; outside the city is meadow."""
    x, y, z, thing = seen.x, seen.y, seen.z, seen.thing
    at = _index(city, x, y)
    top = torch.from_numpy(city.painted.top).view(-1, 3)[at.clamp(min=0)].float()
    top[at < 0] = torch.tensor([104.0, 136.0, 74.0])
    facade = torch.from_numpy(city.painted.facade)[thing.long()].float()
    tree = torch.from_numpy(city.painted.tree)[thing.long()]
    window = (z % 3.2 < 1.4) & ((x.floor() + y.floor()) % 4 < 2) & ~tree
    wall = facade * torch.where(window, 0.62, 1.0)[..., None]
    wall = wall * torch.where(tree, 0.75 + 0.04 * z, 1.0)[..., None]  # a crown is darker below
    return torch.where((thing > 0)[..., None], wall, top) / 255


def _season(city: City, colour: Tensor, seen: _Seen, amount: Tensor) -> Tensor:
    """Plants, turned to brown by `amount` (n,)."""
    at = _index(city, seen.x, seen.y)
    tree = torch.from_numpy(city.painted.tree)[seen.thing.long()]
    plant = torch.from_numpy(city.painted.green).view(-1)[at.clamp(min=0)] & (at >= 0)
    plant = torch.where(seen.thing > 0, tree, plant)
    brown = colour * torch.tensor([1.55, 0.95, 0.60])
    return torch.where(plant[..., None], torch.lerp(colour, brown, amount[:, None, None, None]), colour)


def _occlude(city: City, colour: Tensor, thing: Tensor, share: float, stream: int, numbers: np.ndarray) -> None:
    """Boxes of one colour in the lower half of some photos, in place; what they hide is seen no longer."""
    height, width = colour.shape[1:3]
    some = _u(city, 2, stream, numbers) < share
    count = 1 + (3 * _u(city, 3, stream, numbers)).long()
    row, column = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
    for k in range(3):
        u = [_u(city, 4 + 8 * k + i, stream, numbers)[:, None, None] for i in range(6)]
        left, wide, tall = u[0] * width - 0.1 * width, (0.08 + 0.22 * u[1]) * width, (0.12 + 0.25 * u[2]) * height
        bottom = (0.75 + 0.25 * u[3]) * height
        box = (column >= left) & (column < left + wide) & (row < bottom) & (row >= bottom - tall)
        box &= (some & (k < count))[:, None, None]
        paint = torch.cat([0.1 + 0.8 * u[4], 0.1 + 0.5 * u[5], 0.15 + 0.6 * u[4] * u[5]], -1)
        colour[:] = torch.where(box[..., None], paint[:, None], colour)
        thing.masked_fill_(box, 0)


def _u(city: City, stream: int, group: int, numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(hashed(city.seed, _OPTION + stream, group, numbers)).float()
