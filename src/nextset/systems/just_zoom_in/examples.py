"""What the model and its baseline are trained on and measured by: photos of places, and the views of the cells around them.

Cells are counted in a tree: level 0 is the searched square, level t has (g^2)^t cells, numbered by the actions that lead
there. A view that was made once is kept, up to a limit: there are few of them, and photos are many.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Ground
from nextset.data.augment_photos import augment_views
from nextset.data.images import from_pil, from_uint8, to_uint8
from nextset.data.panels import zoom_panels
from nextset.data.places import PlaceOptions, Places, open_places
from nextset.judges.calibration import fit_temperature
from nextset.judges.places import Answer, Score, evaluate
from nextset.systems.just_zoom_in import geometry
from nextset.systems.just_zoom_in.zoom import Cells

_KEPT = 2 * 2**30  # bytes of views


class Views:
    """Views of the cells of some maps. context: side of what is shown, in sides of the cell."""

    def __init__(self, grounds: list[Ground], g: int, pixels: int, context: float = 1.0) -> None:
        self.grounds, self.g, self.pixels, self.context = grounds, g, pixels, context
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._most = _KEPT // (3 * pixels**2)

    def __call__(self, ground: Tensor, level: Tensor, number: Tensor) -> Tensor:
        """uint8 (U, 3, P, P) of cells (U,): index of the map, level, number in the level."""
        keys = list(zip(ground.tolist(), level.tolist(), number.tolist(), strict=True))
        fresh: dict[tuple[int, int], list[int]] = {}
        for i, key in enumerate(keys):
            if key not in self._kept:
                fresh.setdefault(key[:2], []).append(i)
        made: dict[tuple[int, int, int], Tensor] = {}
        for (of, at), rows in fresh.items():
            pictures = self._make(self.grounds[of], at, number[rows])
            made |= {keys[i]: picture for i, picture in zip(rows, pictures, strict=True)}
        if len(self._kept) + len(made) <= self._most:
            self._kept |= made
            made = {}
        return torch.stack([made[key] if key in made else self._kept[key] for key in keys])

    def _make(self, ground: Ground, level: int, number: Tensor) -> Tensor:
        lat, lon, side = (v[..., -1] for v in geometry.follow(ground.start, actions_of(number, level, self.g), self.g))
        return to_uint8(ground.view(lat, lon, side * self.context, self.pixels))


def actions_of(number: Tensor, level: int, g: int) -> Tensor:
    """Actions (..., level) that lead to a cell by its number (...) in a level."""
    places = (g * g) ** torch.arange(level - 1, -1, -1)
    return number[..., None] // places % (g * g)


def numbers_of(actions: Tensor, g: int) -> Tensor:
    """Numbers (..., S + 1) of the cells on the way of actions (..., S), in their levels; the searched square is 0."""
    steps = [torch.zeros_like(actions[..., 0])]
    for action in actions.unbind(-1):
        steps.append(steps[-1] * g * g + action)
    return torch.stack(steps, -1)


class Examples:
    """Photos with their cells, as batches; and photos that are not trained on, as a test.

    grid, steps, pixels: of the model. context: None gives the views of every decision (B, S); a number gives one view of
    each photo's last cell, of so many of its sides: what retrieval compares a photo with.
    """

    def __init__(
        self, train: Places, test: Places, *, grid: int, steps: int, pixels: int, context: float | None = None
    ) -> None:
        if train.decisions not in (None, steps):
            said = f"{train.source} has sequences of {train.decisions} cells, but the model makes {steps} decisions"
            raise NextsetError(f"{said}; set model.steps={train.decisions}, or leave the sequences out")
        self.train, self.test, self.grid, self.steps, self.context = train, test, grid, steps, context
        self.views = Views(train.grounds, grid, pixels, context or 1.0)
        self.actions = labels(train, grid, steps)

    @classmethod
    def open(cls, options: dict[str, Any], *, grid: int, steps: int, pixels: int, context: float | None) -> Examples:
        """What a recipe's [data] names; photos have the size that the model reads."""
        found = open_places(PlaceOptions.from_dict({**options, "size": pixels}))
        return cls(*found, grid=grid, steps=steps, pixels=pixels, context=context)

    def __len__(self) -> int:
        return len(self.train)

    @property
    def fingerprint(self) -> str:
        """Of the photos that are trained on."""
        return self.train.fingerprint

    def inventory(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return {**self.train.inventory(), "tested": len(self.test)}

    def batch(self, indices: Tensor, samples: Tensor, noise: Noise) -> dict[str, Tensor]:
        """photos (B, 3, P, 2P); actions (B, S); the different views (U, 3, P, P) and view_index, (B, S) or (B,); cell (B,),
        a number for each last cell of each map; index, the samples."""
        actions, ground = self.actions[indices], self.train.ground[indices]
        numbers = numbers_of(actions, self.grid)
        cell = ground * self.grid ** (2 * self.steps) + numbers[:, -1]
        level = (
            torch.arange(self.steps).expand_as(actions) if self.context is None else torch.full_like(cell, self.steps)
        )
        number = numbers[:, :-1] if self.context is None else numbers[:, -1]
        of = ground[:, None].expand_as(level) if self.context is None else ground
        keys = torch.stack([of, level, number], -1).flatten(0, -2)
        unique, where = keys.unique(dim=0, return_inverse=True)
        views = from_uint8(self.views(*unique.unbind(1)))
        if self.train.augment:  # each by the first photo that looks at it; the searched square stays as it is
            first = torch.full((len(unique),), len(where)).scatter_reduce(0, where, torch.arange(len(where)), "amin")
            rows = samples.repeat_interleave(level[0].numel())[first]
            changed = augment_views(views, noise.of("views"), rows)
            views = torch.where((unique[:, 1] > 0)[:, None, None, None], changed, views)
        return {
            "photos": self.train.images(indices, noise, samples),
            "actions": actions,
            "views": views,
            "view_index": where.view(level.shape),
            "cell": cell,
            "index": samples,
        }

    def judged(self, locate: Callable[[Tensor, Ground], Cells], limit: int = 512, batch: int = 64) -> Score:
        """How well photos are located that are not trained on, at most `limit` of them, evenly spread."""
        chosen = torch.arange(len(self.test))[:: max(1, -(-len(self.test) // limit))]
        return score(locate, self.test.take(chosen), self.grid, self.steps, batch)

    @torch.no_grad()
    def settled(self, model: Any, limit: int = 1000) -> dict[str, Any]:
        """The temperature that makes probabilities true, fitted on every second test photo (at most `limit`); and how true
        those of the whole path are for the others, before and after. What the model knows: (lat, lon, side) of the squares."""
        rows = torch.arange(len(self.test))
        fitted, others = self.test.take(rows[::2][:limit]), self.test.take(rows[1::2][:limit])
        parts = [model.choices(*self.question(fitted, some)) for some in in_parts(fitted, 64)]
        temperature = fit_temperature(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
        report: dict[str, Any] = {"defaults": {"temperature": round(temperature, 4)}, "fitted_on": len(fitted)}
        report["info"] = {"knows": [list(ground.start) for ground in self.train.grounds]}
        for name, t in (("before", 1.0), ("after", temperature)) if len(others) else ():
            locate = functools.partial(model.locate, temperature=t)
            report[name] = dataclasses.asdict(score(locate, others, self.grid, self.steps).calibration)
        return report

    def question(self, places: Places, rows: Tensor) -> tuple[dict[str, Tensor], Ground]:
        """Photos of one map with true actions (n, S) and the views of all decisions (n, S, 3, P, P), to ask a model about."""
        some = places.take(rows)
        actions = labels(_true(some), self.grid, self.steps)
        level = torch.arange(self.steps).expand_as(actions)
        if self.context is None:
            number = numbers_of(actions, self.grid)[:, :-1]
            keys = (some.ground[:, None].expand_as(level), level, number)
            views = from_uint8(self.views(*(key.flatten() for key in keys))).unflatten(0, level.shape)
        else:
            views = torch.zeros(len(rows), 0)  # a gallery has its own
        asked = {"photos": some.images(torch.arange(len(rows))), "actions": actions, "views": views}
        return asked, places.grounds[int(some.ground[0])]

    def shown(self, locate: Callable[[Tensor, Ground], Cells], count: int = 4) -> Tensor:
        """(3, H, W): the zoom paths of some photos that are not trained on."""
        chosen = self.test.take(torch.arange(count) * len(self.test) // count)
        rows = []
        for i in range(count):
            ground, photo = chosen.grounds[int(chosen.ground[i])], chosen.images(torch.tensor([i]))
            truth = float(chosen.true_lat[i]), float(chosen.true_lon[i])
            rows.append(from_pil(zoom_panels(photo[0], ground, locate(photo, ground).path[0], truth, 160)))
        return torch.cat(rows, 1)


def labels(places: Places, g: int, steps: int) -> Tensor:
    """Actions (N, steps) that lead to the recorded positions."""
    actions = torch.zeros(len(places), steps, dtype=torch.int64)
    for k, ground in enumerate(places.grounds):
        own = places.ground == k
        actions[own] = geometry.label(places.lat[own], places.lon[own], ground.start, g, steps)
    return actions


def score(locate: Callable[[Tensor, Ground], Cells], places: Places, g: int, steps: int, batch: int = 64) -> Score:
    """Errors and confidences of the likeliest cell of each photo, against where it was truly taken."""
    return evaluate(asker(locate, places, g, steps), in_parts(places, batch), places.landmarks)


def asker(locate: Callable[[Tensor, Ground], Cells], places: Places, g: int, steps: int) -> Callable[[Tensor], Answer]:
    """What answers about rows (n,) of some places, all on one map, with the likeliest cell of each photo."""
    right = labels(_true(places), g, steps)

    def ask(rows: Tensor) -> Answer:
        ground = places.grounds[int(places.ground[rows[0]])]
        cells = locate(places.images(rows), ground)
        metres = geometry.distance(cells.lat[:, 0], cells.lon[:, 0], places.true_lat[rows], places.true_lon[rows])
        exact = (cells.actions[:, 0] == right[rows, : cells.actions.shape[-1]]).all(-1)
        return Answer(metres, exact, cells.logp[:, 0].double().exp())

    return ask


def _true(places: Places) -> Places:
    """With true positions in place of those that were recorded."""
    return dataclasses.replace(places, lat=places.true_lat, lon=places.true_lon)


def in_parts(places: Places, batch: int) -> list[Tensor]:
    """Rows of at most `batch` photos of one map."""
    of = [(places.ground == k).nonzero()[:, 0] for k in range(len(places.grounds))]
    return [some for rows in of for some in rows.split(batch) if len(some)]
