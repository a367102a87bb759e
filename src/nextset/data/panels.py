"""A search as a picture: the photo, and beside it what was looked at on the way, with the chosen cells marked."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from nextset.core.protocols import Ground
from nextset.data.city import EARTH
from nextset.data.images import to_pil

_GAP, _TEXT = 8, 16  # pixels
_CHOSEN, _OTHER, _TRUTH = (255, 40, 40), (255, 190, 60), (40, 230, 255)


def zoom_panels(
    photo: Tensor,
    ground: Ground,
    paths: Tensor,
    truth: tuple[float, float] | None = None,
    side: int = 256,
) -> Image.Image:
    """One row: the photo (3, h, w) in [-1, 1], the view of each square of the likeliest path, and the last cell in its
    surroundings.

    paths (K, S + 1, 3): (lat, lon, side) of the squares on the way of K cells, the likeliest first; its squares are red,
    the other last cells yellow. truth: (lat, lon), a blue cross. side: pixels of a view.
    """
    best = paths[0]
    last = best[-1].clone()
    last[2] = last[2] * 3
    squares = torch.cat([best[:-1], last[None]])
    views = ground.view(squares[:, 0], squares[:, 1], squares[:, 2], side)
    picture = to_pil(photo).resize((2 * side, side), Image.Resampling.BICUBIC)
    width = 2 * side + _GAP + len(squares) * (side + _GAP)
    sheet = Image.new("RGB", (width + _GAP, side + 2 * _GAP + _TEXT), "white")
    draw = ImageDraw.Draw(sheet)
    sheet.paste(picture, (_GAP, _GAP))
    draw.text((_GAP, side + _GAP + 4), "photo", fill="black")
    for i, (view, square) in enumerate(zip(views, squares.tolist(), strict=True)):
        panel = _marked(to_pil(view), square, paths, i, truth)
        x = 2 * side + 2 * _GAP + i * (side + _GAP)
        sheet.paste(panel, (x, _GAP))
        name = f"{square[2]:,.0f} m" if i < len(best) - 1 else f"cell of {best[-1, 2]:,.0f} m in {square[2]:,.0f} m"
        draw.text((x, side + _GAP + 4), name, fill="black")
    return sheet


def _marked(
    picture: Image.Image, square: list[float], paths: Tensor, step: int, truth: tuple[float, float] | None
) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    for path in paths[1:].tolist():
        if (box := _box(path[-1], square, picture.width)) is not None:
            draw.rectangle(box, outline=_OTHER)
    for level, cell in enumerate(paths[0].tolist()[min(step + 1, paths.shape[1] - 1) :]):
        if (box := _box(cell, square, picture.width)) is not None:
            draw.rectangle(box, outline=_CHOSEN, width=3 if level == 0 else 1)
    if truth is not None:
        x, y = _pixel(*truth, square, picture.width)
        for dx, dy in ((6, 0), (0, 6)):
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=_TRUTH, width=2)
    return picture


def _pixel(lat: float, lon: float, square: list[float], side: int) -> tuple[float, float]:
    """Where a place lies in the view of a square, by the rule of views."""
    north = EARTH * math.radians(lat - square[0])
    east = EARTH * math.radians(lon - square[1]) * math.cos(math.radians(square[0]))
    scale = side / square[2]
    return side / 2 + east * scale, side / 2 - north * scale


def _box(cell: list[float], square: list[float], side: int) -> tuple[float, float, float, float] | None:
    """(left, top, right, bottom) of a cell in the view of a square; None where it lies outside."""
    x, y = _pixel(cell[0], cell[1], square, side)
    half = cell[2] / square[2] * side / 2
    box = max(x - half, 0), max(y - half, 0), min(x + half, side - 1), min(y + half, side - 1)
    return box if box[0] <= box[2] and box[1] <= box[3] else None
