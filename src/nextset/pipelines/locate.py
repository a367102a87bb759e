"""Where a photo was taken: a model that locates, as a person uses it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.core.protocols import Ground
from nextset.data.city import EARTH
from nextset.data.geotag import Position, read_position
from nextset.data.images import from_pil, from_uint8, read_image
from nextset.data.maps import Region, open_map
from nextset.data.panels import zoom_panels
from nextset.data.placed_photos import load_photo
from nextset.data.places import inside, within
from nextset.hub import pretrained

Photo = str | Path | Image.Image | Tensor
_SHOWN = (512, 256)  # pixels that are kept of a photo as it came, for pictures


@dataclasses.dataclass(frozen=True)
class Cell:
    """A square of the map that the photo may have been taken in.

    lat, lon: its centre in degrees. side_m: its side. probability: of the whole path to it; logp: its logarithm. actions:
    the choices that lead there, row * grid + column from the north-west. path: (lat, lon, side) of the squares on the way,
    the searched one first.
    """

    lat: float
    lon: float
    side_m: float
    probability: float
    logp: float
    actions: tuple[int, ...]
    path: tuple[tuple[float, float, float], ...]

    @property
    def radius_m(self) -> float:
        """From the centre to a corner: where the cell is right, the place is no farther away."""
        return self.side_m / math.sqrt(2)

    @property
    def polygon(self) -> list[list[float]]:
        """[lon, lat] of the corners from the north-west, counter-clockwise as GeoJSON has it, closed."""
        up = math.degrees(self.side_m / 2 / EARTH)
        aside = math.degrees(self.side_m / 2 / (EARTH * math.cos(math.radians(self.lat))))
        signs = ((-1, 1), (-1, -1), (1, -1), (1, 1), (-1, 1))
        return [[self.lon + x * aside, self.lat + y * up] for x, y in signs]

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        names = ("lat", "lon", "side_m", "radius_m", "probability", "logp")
        return {**{n: getattr(self, n) for n in names}, "actions": list(self.actions), "cell_polygon": self.polygon}


@dataclasses.dataclass
class Located:
    """What a search found for one photo: `cells`, the likeliest first. It can be looped over.

    photo: (3, P, 2P) as the model saw it. name: what the photo is called. position: where it says that it was taken, if it
    does. unknown: share of unknown ground in the views on the likeliest path. original: the photo as it came, made small, for pictures.
    """

    cells: list[Cell]
    photo: Tensor
    ground: Ground
    name: str = "photo"
    position: Position | None = None
    unknown: tuple[float, ...] = ()
    original: Image.Image | None = None

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, k: int) -> Cell:
        return self.cells[k]

    @property
    def error_m(self) -> float | None:
        """Metres from the likeliest cell's centre to where the photo says that it was taken."""
        if self.position is None:
            return None
        a, b = math.radians(self.cells[0].lat), math.radians(self.position.lat)
        across = math.radians(self.position.lon - self.cells[0].lon)
        h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(across / 2) ** 2
        return 2 * EARTH * math.asin(min(1.0, math.sqrt(h)))

    def picture(self, side: int = 256) -> Image.Image:
        """The photo, and the zoom path over the map with the chosen cells."""
        paths = torch.tensor([cell.path for cell in self.cells], dtype=torch.float64)
        truth = None if self.position is None else (self.position.lat, self.position.lon)
        photo = self.photo if self.original is None else from_pil(self.original.resize((2 * side, side)))
        return zoom_panels(photo, self.ground, paths, truth, side)

    def geojson(self) -> dict[str, Any]:
        """A FeatureCollection: a polygon a cell, with its probability."""
        features = []
        for rank, cell in enumerate(self.cells, start=1):
            said = {k: v for k, v in cell.to_dict().items() if k != "cell_polygon"}
            shape = {"type": "Polygon", "coordinates": [cell.polygon]}
            properties = {"photo": self.name, "rank": rank, **said}
            features.append({"type": "Feature", "geometry": shape, "properties": properties})
        return {"type": "FeatureCollection", "features": features}

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        found: dict[str, Any] = {"photo": self.name, "cells": [cell.to_dict() for cell in self.cells]}
        if self.position is not None:
            found |= {"latitude": self.position.lat, "longitude": self.position.lon, "error_m": self.error_m}
        return {**found, "unknown": list(self.unknown)}


class Locator:
    """A model that says where photos were taken, on any map."""

    asked_with = "photo"

    def __init__(self, loaded: pretrained.Pretrained) -> None:
        self.name, self.system, self.info = loaded.name, loaded.model, loaded.info
        self.defaults: dict[str, Any] = dict(self.info.get("defaults", {}))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Self:
        """Load by folder, packaged name or hub name."""
        return cls(pretrained.load(name, dtype=dtype, device=device))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model as a folder, with its defaults."""
        more = {k: v for k, v in self.info.items() if k not in ("format", "kind", "system", "config", "defaults")}
        return pretrained.save(folder, self.system, defaults=self.defaults, **more)

    def __call__(
        self,
        photo: Photo | Sequence[Photo],
        map: Ground | str | Path | None = None,
        *,
        k: int = 5,
        beams: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        region: Region | None = None,
        batch: int = 32,
    ) -> Any:
        """The `k` likeliest cells of a photo (`Located`); of several photos a list.

        photo: a file, a PIL picture, or a tensor (3, h, w) in [-1, 1]; any size, seen as twice as wide as high. map: a
        `Ground`, or what `open_map` reads. beams: paths that are followed, at least k (the default). temperature: of the
        probabilities; the model's default is what made them true on photos that it was not trained on, or 1. steps: stop
        early, at coarser cells. region: (lat, lon, side in metres) of the square to search, if not the whole map.
        """
        check_range("k", k, 1, 1024)
        check_range("batch", batch, 1, 4096)
        if map is None:
            raise NextsetError(
                "a photo is located on a map; give a folder of tiles, an .mbtiles, a GeoTIFF, or a Ground"
            )
        width = k if beams is None else beams
        if width < k:
            raise NextsetError(f"k is {k}, but only {width} beams are followed; give beams={k}")
        ground: Any = open_map(map, region) if isinstance(map, (str, Path)) else map
        self._know(ground)
        settings: dict[str, Any] = {"beams": width, "steps": steps}
        settings["temperature"] = self.defaults.get("temperature", 1.0) if temperature is None else temperature
        check_range("temperature", settings["temperature"], 1e-3, 1e3)
        one = isinstance(photo, (str, Path, Image.Image, Tensor))
        photos: list[Any] = [photo] if one else list(photo)  # type: ignore[arg-type]
        if not photos:
            raise NextsetError("there is no photo to locate; give at least one")
        read = [self._read(each, f"photo {i}", ground) for i, each in enumerate(photos)]
        found = []
        for start in range(0, len(read), batch):
            some = read[start : start + batch]
            cells = self.system.locate(torch.stack([each.pixels for each in some]), ground, **settings)
            for row, each in enumerate(some):
                kept = _cells(cells, row, k)
                unknown = self._unknown(kept[0], ground)
                found.append(Located(kept, each.pixels, ground, each.name, each.position, unknown, each.original))
        return found[0] if one else found

    def _know(self, ground: Ground) -> None:
        """Warn of a map of another place than the model was trained on."""
        lat, lon = (torch.tensor([v], dtype=torch.float64) for v in ground.start[:2])
        places = self.info.get("knows", [])
        if places and not any(inside(lat, lon, place) for place in places):
            known = ", ".join(f"{a:.4f}, {b:.4f} ({side:,.0f} m)" for a, b, side in places[:3])
            said = f"{self.name} was trained on the ground around {known}, and the map shows another place: it guesses"
            warnings.warn(said, NextsetWarning, stacklevel=3)

    def _read(self, photo: Photo, name: str, ground: Ground) -> _Read:
        size, position = self.system.config.pixels, None
        if isinstance(photo, Tensor):
            return _Read(
                torch.nn.functional.interpolate(photo[None].float(), (size, 2 * size), mode="bilinear")[0], name
            )
        if isinstance(photo, (str, Path)):
            name = str(photo)
            picture, _ = read_image(photo)
            try:
                position = read_position(photo)
            except NextsetError as error:  # it can be located all the same
                warnings.warn(f"{error}; its own position is not used", NextsetWarning, stacklevel=4)
        else:
            picture = photo
        if position is not None and not bool(within(ground, *torch.tensor([[position.lat], [position.lon]]).double())):
            warnings.warn(
                f"{name} says {position.lat:.5f}, {position.lon:.5f}, which lies outside the searched square; no answer can be right",
                NextsetWarning,
                stacklevel=4,
            )
        return _Read(
            from_uint8(torch.from_numpy(load_photo(picture, size).copy())),
            name,
            position,
            picture.convert("RGB").resize(_SHOWN),
        )

    def _unknown(self, cell: Cell, ground: Any) -> tuple[float, ...]:
        """Share of unknown ground in the views that led to a cell."""
        if not hasattr(ground, "missing"):
            return ()
        squares = torch.tensor(cell.path[:-1], dtype=torch.float64)
        ground.view(*squares.unbind(1), self.system.config.pixels)
        return tuple(float(share) for share in ground.missing)


class _Read(NamedTuple):
    """A photo (3, P, 2P) in [-1, 1], what it is called, where it says that it was taken, and as it came."""

    pixels: Tensor
    name: str
    position: Position | None = None
    original: Image.Image | None = None


def _cells(found: Any, row: int, k: int) -> list[Cell]:
    """The likeliest `k` cells of a photo, without places that are filled up."""
    cells: list[Cell] = []
    for i in range(min(k, found.logp.shape[1])):
        logp = float(found.logp[row, i])
        if math.isinf(logp) and cells:
            break
        path = tuple((float(a), float(b), float(c)) for a, b, c in found.path[row, i].tolist())
        actions = tuple(int(a) for a in found.actions[row, i])
        cells.append(Cell(*path[-1], math.exp(logp), logp, actions, path))
    return cells
