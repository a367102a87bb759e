"""The world that is zoomed into: a map, and what a decision leads to; and what a search found.

Two worlds serve the one canvas. `Zoom` asks a map for the view of the cell that was chosen. `Shown` has the views already,
as training does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nextset.core.interleaved import Environment
from nextset.core.protocols import Filter, Ground
from nextset.engine.filters import only
from nextset.systems.just_zoom_in import geometry

Vectors = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """Squares of the map: centre in degrees, side in metres, float64 (N,) on the CPU."""

    lat: Tensor
    lon: Tensor
    side: Tensor


class Zoom:
    """A map, cut into g x g cells again and again. encode: views (U, 3, P, P) -> (U, C); embed: ids (...) -> (..., C)."""

    def __init__(self, ground: Ground, encode: Vectors, embed: Vectors, g: int, pixels: int) -> None:
        self.ground, self.encode, self.embed, self.g, self.pixels = ground, encode, embed, g, pixels

    def start(self, entries: int) -> Place:
        return Place(*(geometry.exact(value).expand(entries) for value in self.ground.start))

    def move(self, state: Place, decision: Tensor) -> Place:
        return Place(*geometry.child(*state, decision, self.g))

    def observe(self, state: Place) -> Tensor:
        """Vectors (N, C) of the views; a square that several entries look at is read and encoded once."""
        squares, which = torch.stack(state, -1).unique(dim=0, return_inverse=True)
        lat, lon, side = squares.unbind(-1)
        seen = self.encode(self.ground.view(lat, lon, side, self.pixels))
        return seen[which.to(seen.device)]

    def children_shown(self, state: Place) -> Tensor | None:
        """Which cells (N, 1, g^2) of squares have their centre on the map, or None where the map has no edge. Of a square
        that has none all count: it is unknown ground, and no reason to stop."""
        covers = getattr(self.ground, "covers", None)
        if covers is None:
            return None
        lat, lon, _ = geometry.children(*state, self.g)
        shown = torch.as_tensor(covers(lat.flatten(), lon.flatten())).view(lat.shape)
        return (shown | ~shown.any(-1, keepdim=True))[:, None]


class Shown:
    """Views that are known beforehand: vectors (N, S, C), whatever is decided. The state is what is left of them."""

    def __init__(self, views: Tensor, embed: Vectors) -> None:
        self.views, self.embed = views, embed

    def start(self, entries: int) -> Tensor:
        return self.views

    def move(self, state: Tensor, decision: Tensor) -> Tensor:
        return state[:, 1:]

    def observe(self, state: Tensor) -> Tensor:
        return state[:, 0]


def on_the_map(canvas: Environment, world: Zoom, step: int) -> list[Filter]:
    """A filter that removes cells outside the map from the choice of a step."""

    def apply(law: object) -> object:
        shown = world.children_shown(canvas.state(step))
        return law if shown is None else only(shown)(law)

    return [apply]


@dataclasses.dataclass(frozen=True)
class Cells:
    """What a search found: K cells for each of N photos, the likeliest first.

    path: (N, K, S + 1, 3) float64, (lat, lon, side) of the searched square and of each cell on the way, degrees and metres.
    actions: (N, K, S) the cells that were chosen, row * grid + column from the north-west. logp: (N, K) log probability of
    the whole path; -inf marks a place that is filled up because there are not K cells.
    """

    path: Tensor
    actions: Tensor
    logp: Tensor

    @property
    def lat(self) -> Tensor:
        """(N, K) latitude of the cells' centres, in degrees."""
        return self.path[..., -1, 0]

    @property
    def lon(self) -> Tensor:
        """(N, K) longitude of the cells' centres, in degrees."""
        return self.path[..., -1, 1]

    @property
    def side(self) -> Tensor:
        """(N, K) side of the cells, in metres."""
        return self.path[..., -1, 2]

    @classmethod
    def of(cls, canvas: Environment, photos: int) -> Cells:
        """What the canvas holds so far of a search for that many photos."""
        done = canvas.done
        path = torch.stack([torch.stack(canvas.state(t), -1) for t in range(done + 1)], 1)
        found = (path, canvas.ids[:, :done].cpu(), canvas.logp[:, :done].sum(1).cpu())
        return cls(*(t.unflatten(0, (photos, -1)) for t in found))
