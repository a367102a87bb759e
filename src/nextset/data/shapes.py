"""The moving-shapes testbed: short clips of one shape that moves, rendered on the spot (a `Dataset` of clips).

A class is a motion and a shape, such as `bouncing-star`. Everything else of clip i (colours, ground, size, place,
phase, speed) is a function of (seed, i) alone, by counter-based noise. Nothing is stored and nothing is downloaded:
there are as many clips as are asked for. Clips that are held out have numbers that no training clip has.

Shapes are rendered from exact signed distances, so their edges are smooth at any size. It knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from nextset.core.configs import Config
from nextset.core.noise import Noise

_VERSION = 1  # of the pictures: part of the fingerprint, to be raised when a clip changes
_HELD_FROM = 2**30  # number of the first clip that is held out


@dataclasses.dataclass(frozen=True)
class ShapesOptions(Config):
    """What a recipe may say about moving shapes. frames: of a clip. clips: how many there are. held: those to train on
    ("out") or those that are held out of training ("only"). colours: 0 = any, else so many pure hues of the shape, on
    a dark or a light grey ground. seed: another one, another set."""

    frames: int = 16
    clips: int = 8192
    colours: int = 0
    held: Literal["out", "only"] = "out"
    seed: int = 0

    def check(self) -> None:
        self.require("frames", 2 <= self.frames <= 1024, "between 2 and 1024")
        self.require("clips", len(CLASSES) <= self.clips <= 2**28, f"between {len(CLASSES)}, one a class, and {2**28}")
        self.require("colours", 0 <= self.colours <= 64, "0, any, or a number of hues up to 64")
        self.require("seed", 0 <= self.seed < 2**63, "at least 0, and below 2^63")


class MovingShapes:
    """The set (a `VideoDataset`). Clip i is of class i modulo 16. size: pixels a side."""

    source = "moving-shapes"
    captions = None
    augmented = False

    def __init__(self, size: int, options: ShapesOptions | None = None) -> None:
        self.size, self.options = size, options or ShapesOptions()
        self.frames = self.options.frames
        self.class_names = list(CLASSES)
        self.labels = torch.arange(self.options.clips) % len(CLASSES)
        self.skipped: list[str] = []
        self.converted: dict[str, int] = {}
        self.notes: list[str] = []

    def __len__(self) -> int:
        return self.options.clips

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that the clips depend on."""
        return hashlib.sha256(repr((self.source, _VERSION, self.size, self.options)).encode()).hexdigest()

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Clips (B, 3, frames, size, size) float32 in [-1, 1]; nothing is augmented, whatever noise is given."""
        numbers = indices + (_HELD_FROM if self.options.held == "only" else 0)
        u = Noise(self.options.seed, "moving-shapes").uniform(numbers, torch.arange(12))
        if self.options.colours:
            u = few_colours(u, self.options.colours)
        return render(self.labels[indices], u, self.frames, self.size)


# ---- shapes in a circle of radius 1: points (..., 2) -> signed distance to the border (...), negative inside


def circle(points: Tensor) -> Tensor:
    """Of radius 0.85, so that its area is near the others'."""
    return points.norm(dim=-1) - 0.85


def square(points: Tensor) -> Tensor:
    """Its corners lie on the circle."""
    x, y = points.unbind(-1)
    return _star(torch.stack([x + y, y - x], -1) * math.sqrt(0.5), 4, math.sqrt(0.5))


def triangle(points: Tensor) -> Tensor:
    """Equilateral, pointing up, its corners on the circle."""
    return _star(points, 3, 0.5)


def star(points: Tensor) -> Tensor:
    """Five tips on the circle; the inner corners at 0.45."""
    return _star(points, 5, 0.45)


def _star(points: Tensor, tips: int, inner: float) -> Tensor:
    """A star whose tips lie on the circle, the first at the top; with inner = cos(pi / tips) it is a regular polygon.

    All of it is one side, mirrored: the plane is folded to the wedge between a tip and the inner corner beside it.
    """
    x, y = points.unbind(-1)
    half = math.pi / tips
    angle = ((torch.atan2(x, -y) + half) % (2 * half) - half).abs()  # from the nearest tip
    far = points.norm(dim=-1)
    along, aside = far * angle.cos() - 1, far * angle.sin()  # seen from that tip, along its axis and off it
    dx, dy = inner * math.cos(half) - 1, inner * math.sin(half)  # the side, as it leaves the tip
    on = ((along * dx + aside * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    away = ((along - on * dx).square() + (aside - on * dy).square()).sqrt()
    return away * torch.where(along * dy - aside * dx < 0, -1.0, 1.0)


# ---- motions in a frame of side 1: u (B, 4) and time (T,) in [0, 1), radius (B,) -> places (B, T, 2), radii (B, T)


def sliding(u: Tensor, time: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Straight on, thrown back by the borders."""
    room = (1 - 2 * radius)[:, None, None]
    angle = (math.tau * u[:, 0])[:, None, None] + torch.tensor([0.0, math.pi / 2])
    way = (0.7 + 0.5 * u[:, 1])[:, None, None] * time[:, None] * angle.cos()
    unfolded = (u[:, None, 2:4] * room + way) % (2 * room)
    places = radius[:, None, None] + torch.minimum(unfolded, 2 * room - unfolded)
    return places, radius[:, None].expand(-1, len(time))


def circling(u: Tensor, time: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Once round a circle, either way."""
    orbit = (0.5 - radius) * (0.6 + 0.3 * u[:, 0])
    turn = math.tau * (u[:, 1, None] + torch.where(u[:, 2, None] < 0.5, -1.0, 1.0) * time)
    centre = 0.5 + (u[:, 3, None, None] - 0.5) * 2 * (0.5 - radius - orbit)[:, None, None]
    way = torch.stack([turn.cos(), turn.sin()], -1) * orbit[:, None, None]
    return centre + way, radius[:, None].expand(-1, len(time))


def bouncing(u: Tensor, time: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Falls and jumps up again from the ground, twice in a clip, at one place."""
    phase = (2 * time + u[:, 0, None]) % 1
    room = (1 - 2 * radius)[:, None]
    height = room * (0.7 + 0.3 * u[:, 1, None]) * 4 * phase * (1 - phase)
    x = radius[:, None] + room * u[:, 2, None]
    return torch.stack([x.expand_as(height), 1 - radius[:, None] - height], -1), radius[:, None].expand_as(height)


def pulsing(u: Tensor, time: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Shrinks to less than half and grows again, twice in a clip, at one place."""
    radii = radius[:, None] * (0.7 + 0.3 * (math.tau * (2 * time + u[:, 0, None])).cos())
    place = radius[:, None] + u[:, 1:3] * (1 - 2 * radius)[:, None]
    return place[:, None].expand(-1, len(time), -1), radii


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "circle": circle, "square": square, "triangle": triangle, "star": star,
}  # fmt: skip
MOTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "sliding": sliding, "circling": circling, "bouncing": bouncing, "pulsing": pulsing,
}  # fmt: skip
CLASSES = tuple(f"{motion}-{shape}" for motion in MOTIONS for shape in SHAPES)


def render(labels: Tensor, u: Tensor, frames: int, size: int) -> Tensor:
    """Clips (B, 3, frames, size, size) float32 in [-1, 1] of classes (B,).

    u: (B, 12) in [0, 1): radius, four of the motion, hue of the shape, its saturation and value, hue of the ground, its
    saturation, its value, tilt.
    """
    radius = 0.17 + 0.09 * u[:, 0]
    time = torch.arange(frames) / frames
    places, radii = torch.zeros(len(u), frames, 2), torch.zeros(len(u), frames)
    for kind, move in enumerate(MOTIONS.values()):
        rows = torch.nonzero(labels // len(SHAPES) == kind)[:, 0]
        places[rows], radii[rows] = move(u[rows, 1:5], time, radius[rows])
    centres = (torch.arange(size) + 0.5) / size
    grid = torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)], -1)
    points = (grid - places[:, :, None, None]) / radii[:, :, None, None, None]
    tilt = (0.6 * (u[:, 11] - 0.5))[:, None, None, None]
    x, y = points.unbind(-1)
    points = torch.stack([x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()], -1)
    cover = torch.zeros(len(u), frames, size, size)
    for kind, distance in enumerate(SHAPES.values()):
        rows = torch.nonzero(labels % len(SHAPES) == kind)[:, 0]
        cover[rows] = (0.5 - distance(points[rows]) * radii[rows, :, None, None] * size).clamp(0, 1)
    front = _colour(u[:, 5], 0.7 + 0.3 * u[:, 6], 0.75 + 0.25 * u[:, 7])
    ground = _colour(u[:, 8], 0.25 * u[:, 9], torch.where(u[:, 10] < 0.5, 0.1 + 0.2 * u[:, 10], 0.8 + 0.2 * u[:, 10]))
    front, ground = front[:, :, None, None, None], ground[:, :, None, None, None]
    return (ground + (front - ground) * cover[:, None]) * 2 - 1


def few_colours(u: Tensor, hues: int) -> Tensor:
    """The same clips (`render`) in so many hues, of full saturation and value, on a dark or a light grey."""
    u = u.clone()
    u[:, 5] = (u[:, 5] * hues).floor() / hues
    u[:, 6:8] = 1
    u[:, 8:10] = 0
    u[:, 10] = u[:, 10].round()
    return u


def _colour(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value (B,) in [0, 1] -> RGB (B, 3) in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))
