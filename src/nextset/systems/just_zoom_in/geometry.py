"""Where cells lie: great-circle moves on a sphere of 6,378,137 m, in float64 on the CPU.

A place is (lat, lon, side): the centre of a square in degrees, and its side in metres. Cells of a square are numbered
row by row from the north-west; action = row * g + column. Moves east come before moves north, as great circles: "east"
drops a little in latitude, and a local plane in its place would miss the authors' numbers.

Shapes: anything that broadcasts; the functions take tensors, and numbers where they stand for one place.
Source: sheet `just_zoom_in`, Data representation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, check_range

RADIUS = 6378137.0
Number = float | Tensor


def exact(value: Number) -> Tensor:
    """A number or tensor as float64 on the CPU."""
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


def move(lat: Number, lon: Number, bearing: Number, metres: Number) -> tuple[Tensor, Tensor]:
    """(lat, lon) after `metres` along the great circle that leaves at `bearing`, degrees clockwise from north."""
    phi, angle, delta = exact(lat).deg2rad(), exact(bearing).deg2rad(), exact(metres) / RADIUS
    to = (phi.sin() * delta.cos() + phi.cos() * delta.sin() * angle.cos()).asin()
    turn = torch.atan2(angle.sin() * delta.sin() * phi.cos(), delta.cos() - phi.sin() * to.sin())
    return to.rad2deg(), wrap(exact(lon) + turn.rad2deg())


def wrap(lon: Tensor) -> Tensor:
    """Longitudes in [-180, 180]; those that are there already are left bit by bit."""
    return torch.where(lon.abs() <= 180, lon, (lon + 180) % 360 - 180)


def distance(lat: Number, lon: Number, other_lat: Number, other_lon: Number) -> Tensor:
    """Metres between places along the great circle (haversine)."""
    a, b = exact(lat).deg2rad(), exact(other_lat).deg2rad()
    across = (exact(other_lon) - exact(lon)).deg2rad()
    h = ((b - a) / 2).sin() ** 2 + a.cos() * b.cos() * (across / 2).sin() ** 2
    return 2 * RADIUS * torch.atan2(h.sqrt(), (1 - h).sqrt())


def region(centre: tuple[float, float], bounds: Sequence[float]) -> tuple[float, float, float]:
    """The searched square (lat, lon, side) of a geographic centre and bounds (east from, to, north from, to) in metres."""
    east_from, east_to, north_from, north_to = bounds
    side = east_to - east_from
    check_range("side of the region", side, 1e-3, 4e7)
    if abs(north_to - north_from - side) > 1e-6 * side:
        raise NextsetError(
            f"the region is {side:g} m by {north_to - north_from:g} m, but must be a square; change the bounds"
        )
    lat, lon = shift(*centre, (east_from + east_to) / 2, (north_from + north_to) / 2)
    return float(lat), float(lon), side


def shift(lat: Number, lon: Number, east: Number, north: Number) -> tuple[Tensor, Tensor]:
    """(lat, lon) after a move east, then north, in metres."""
    return move(*move(lat, lon, 90.0, east), 0.0, north)


def child(lat: Number, lon: Number, side: Number, action: Number, g: int) -> tuple[Tensor, Tensor, Tensor]:
    """(lat, lon, side) of the cell `action` in [0, g^2) of a square."""
    lat, lon, side, a = exact(lat), exact(lon), exact(side), torch.as_tensor(action, device="cpu")
    part = side / g
    east = (a % g + 0.5) * part - side / 2
    north = side / 2 - (a.div(g, rounding_mode="floor") + 0.5) * part
    moved = shift(lat, lon, east, north)
    return *moved, part.expand(moved[0].shape)


def children(lat: Number, lon: Number, side: Number, g: int) -> tuple[Tensor, Tensor, Tensor]:
    """(lat, lon, side) of all cells of squares (...): (..., g^2) each."""
    lat, lon, side = (exact(value)[..., None] for value in (lat, lon, side))
    return child(lat, lon, side, torch.arange(g * g), g)


def follow(start: tuple[float, float, float], actions: Tensor, g: int) -> tuple[Tensor, Tensor, Tensor]:
    """The squares on the way: actions (..., S) -> (lat, lon, side), (..., S + 1) each, the searched square first."""
    lat, lon, side = (exact(value).expand(actions.shape[:-1]) for value in start)
    places = [(lat, lon, side)]
    for action in actions.unbind(-1):
        lat, lon, side = child(lat, lon, side, action, g)
        places.append((lat, lon, side))
    lat, lon, side = (torch.stack(values, -1) for values in zip(*places, strict=True))
    return lat, lon, side


def label(lat: Number, lon: Number, start: tuple[float, float, float], g: int, steps: int) -> Tensor:
    """Actions (..., steps) that lead to a place. One outside the searched square gets the nearest cells: see `inside`.

    The plane of the sphere, with the cosine of the place's own latitude, is the rule of the released labels.
    """
    east, north = _plane(lat, lon, start)
    at_east, at_north, side, actions = torch.zeros_like(east), torch.zeros_like(north), start[2], []
    for _ in range(steps):
        part = side / g
        column = ((east - at_east + side / 2) / part).floor().clamp(0, g - 1)
        row = ((at_north + side / 2 - north) / part).floor().clamp(0, g - 1)
        actions.append((row * g + column).long())
        at_east, at_north, side = (
            at_east + (column + 0.5) * part - side / 2,
            at_north - (row + 0.5) * part + side / 2,
            part,
        )
    return torch.stack(actions, -1)


def inside(lat: Number, lon: Number, start: tuple[float, float, float]) -> Tensor:
    """Whether places lie in the searched square, by the rule of `label`."""
    east, north = _plane(lat, lon, start)
    return (east.abs() <= start[2] / 2) & (north.abs() <= start[2] / 2)


def _plane(lat: Number, lon: Number, start: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Metres east and north of the searched square's centre, in the plane of the labels."""
    lat, lon = exact(lat), exact(lon)
    north = RADIUS * (lat - start[0]).deg2rad()
    return RADIUS * wrap(lon - start[1]).deg2rad() * lat.deg2rad().cos() + torch.zeros_like(north), north


def corners(lat: Number, lon: Number, side: Number) -> tuple[Tensor, Tensor]:
    """(lat, lon), (..., 4) each: corners of squares from the north-west clockwise."""
    half = exact(side)[..., None] / 2
    east, north = torch.tensor([-1.0, 1.0, 1.0, -1.0]) * half, torch.tensor([1.0, 1.0, -1.0, -1.0]) * half
    return shift(exact(lat)[..., None], exact(lon)[..., None], east, north)


def recall(metres: Tensor, limits: Sequence[float] = (40.0, 50.0, 100.0)) -> Tensor:
    """Percent of errors (N,) within each limit, (len(limits),); the limit itself counts."""
    return (metres[:, None] <= exact(torch.tensor(limits))).double().mean(0) * 100
