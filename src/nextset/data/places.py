"""Photos whose places are known, and the maps that show them: what a model that locates photos learns from.

Two sources: the testbed `city`, which is rendered and kept on disk, and a folder of photos with positions (EXIF, or a CSV)
beside a map. It knows neither models nor cells: a place is a latitude and a longitude.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Ground
from nextset.data.augment_photos import augment_photos
from nextset.data.images import from_uint8

CITY = "city"


@dataclasses.dataclass(frozen=True)
class PlaceOptions(Config):
    """What a recipe's [data] may say about photos and their places.

    source: "city", or a folder of photos, or a CSV with path, latitude, longitude. map: of such photos, as `open_map`
    takes it. size: rows P of a photo, which has 2P columns. augment: photos are changed in training, see `augment_photos`.
    val: photos that are not trained on. outside: what to do with photos that lie outside the searched square.

    Of "city": cities by seed, and their side in metres; train: photos. split: how photos that are not trained on differ:
    "photo" (another photo of the same streets), "gap" (at least 5 m from any that is trained on), "region" (squares of 320 m
    that training never enters, an eighth of the city), "city" (those of `held`). gps_noise: standard deviation in metres of
    the positions that are learnt; the true ones are measured against. exposure, occluders, season: see `PhotoOptions`.
    """

    source: str = CITY
    map: str = ""
    size: int = 32
    augment: bool = False
    train: int = 40_000
    val: int = 2_000
    outside: Literal["drop", "fail"] = "drop"
    cities: tuple[int, ...] = (0,)
    held: tuple[int, ...] = ()
    side: int = 2560
    split: Literal["photo", "gap", "region", "city"] = "photo"
    gps_noise: float = 0.0
    exposure: float = 0.3
    occluders: float = 0.0
    season: float = 0.0

    def check(self) -> None:
        self.require("size", 8 <= self.size <= 1024, "between 8 and 1024")
        self.require("train", 1 <= self.train <= 10**7, "between 1 and 10,000,000")
        self.require("val", 1 <= self.val <= 10**6, "between 1 and 1,000,000")
        self.require("cities", len(self.cities) > 0, "at least one seed")
        self.require(
            "held", (self.split == "city") == bool(self.held), "seeds of cities where split is 'city', else empty"
        )
        self.require("held", not set(self.held) & set(self.cities), "other cities than those that are trained on")
        self.require("gps_noise", 0 <= self.gps_noise <= 1000, "between 0 and 1000")
        self.require("map", self.source == CITY or bool(self.map), "the path of a map that shows the photos")


@dataclasses.dataclass
class Places:
    """N photos and where they were taken.

    photos: uint8 (N, 3, P, 2P). lat, lon: float64 (N,) in degrees, as recorded; true_lat, true_lon: as they are. ground:
    int64 (N,), an index of `grounds`. landmarks: {crop in metres: int8 (N,)}, where the towers that a photo shows stand: 0
    shows none, 1 some inside the crop around its place, 2 all outside; empty where nobody knows. augment: whether noise
    changes a photo. decisions: cells of the sequences that came with the photos, if any did. skipped, notes: a line each.
    """

    photos: np.ndarray
    lat: Tensor
    lon: Tensor
    true_lat: Tensor
    true_lon: Tensor
    ground: Tensor
    grounds: list[Ground]
    source: str
    landmarks: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    augment: bool = False
    decisions: int | None = None
    skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.photos)

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Photos (B, 3, P, 2P) float32 in [-1, 1]; augmented where `noise` is given and the set says so."""
        x = from_uint8(torch.from_numpy(self.photos[indices.numpy()]))
        if noise is None or not self.augment:
            return x
        return augment_photos(x, noise.of("augment"), indices if samples is None else samples)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of photos and recorded positions."""
        h = hashlib.sha256(repr((self.photos.shape, self.augment, self.source)).encode())
        h.update(np.ascontiguousarray(self.photos).data)
        h.update(torch.stack([self.lat, self.lon]).numpy().tobytes())
        return h.hexdigest()

    def take(self, indices: Tensor | np.ndarray) -> Places:
        """Some of them."""
        i = torch.as_tensor(indices)
        cut: dict[str, Any] = {n: getattr(self, n)[i] for n in ("lat", "lon", "true_lat", "true_lon", "ground")}
        marks = {crop: mark[i.numpy()] for crop, mark in self.landmarks.items()}
        return dataclasses.replace(self, photos=self.photos[i.numpy()], landmarks=marks, **cut)

    def inventory(self) -> dict[str, Any]:
        """A dict that JSON can hold: how many, of what size, from where, what was left out."""
        size = list(self.photos.shape[2:])
        return {"source": self.source, "photos": len(self), "size": size, "maps": len(self.grounds),
                "skipped": list(self.skipped), "notes": list(self.notes)}  # fmt: skip


def open_places(options: PlaceOptions) -> tuple[Places, Places]:
    """(photos to train on, photos to test on)."""
    if options.source == CITY:
        from nextset.data.city_photos import city_places

        return city_places(options)
    found = folder_places(options)
    count = len(found)
    if count <= options.val:
        raise NextsetError(
            f"{options.source} has {count} photos with a place, but {options.val} are kept for testing; set data.val lower"
        )
    order = Noise(0, "places").permutation(count)
    held = order[: options.val]
    kept = dataclasses.replace(found.take(order[options.val :]), augment=options.augment)
    return kept, found.take(held)


def folder_places(options: PlaceOptions) -> Places:
    """The photos of a folder or of a CSV that have a place on the map."""
    from nextset.data.maps import open_map
    from nextset.data.placed_photos import read_placed

    ground = open_map(options.map)
    placed = read_placed(Path(options.source), options.size)
    lat, lon = torch.tensor(placed.positions, dtype=torch.float64).unbind(1)
    inside = within(ground, lat, lon)
    notes = []
    if outside := int((~inside).sum()):
        said = f"{outside} of {len(lat)} photos lie outside the searched square of {options.map}"
        if options.outside == "fail" or outside == len(lat):
            raise NextsetError(f"{said}; leave them out (data.outside=drop), or give a map that shows them")
        notes.append(f"{said}; they are left out")
    zeros = torch.zeros(len(lat), dtype=torch.int64)
    places = Places(placed.photos, lat, lon, lat, lon, zeros, [ground], options.source, notes=notes)
    places.skipped, places.decisions = placed.skipped, placed.decisions
    return places.take(inside.nonzero()[:, 0])


def within(ground: Ground, lat: Tensor, lon: Tensor) -> Tensor:
    """Which places lie in the square that is searched, bool (N,)."""
    return inside(lat, lon, ground.start)


def inside(lat: Tensor, lon: Tensor, square: Sequence[float]) -> Tensor:
    """Which places (N,) in degrees lie in a square (lat, lon, side in metres), bool (N,)."""
    from nextset.data.city import EARTH

    at, along, side = square
    north = EARTH * torch.deg2rad(lat - at)
    east = EARTH * torch.deg2rad(lon - along) * torch.cos(torch.deg2rad(lat))
    return (north.abs() <= side / 2) & (east.abs() <= side / 2)
