"""Photos of cities as a data set: where they are taken, how training and testing are kept apart, which show a landmark.

Rendered once and kept on disk. Source: sheet `just_zoom_in`, Synthetic benchmark (Data); the regions, and what counts as
seeing a landmark, are chosen.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Ground
from nextset.data.arrays import read_arrays, write_arrays
from nextset.data.city import City
from nextset.data.city_plan import DISTRICT, hashed
from nextset.data.city_streets import PhotoOptions, Shot, photograph
from nextset.data.dataset import cache_folder
from nextset.data.places import PlaceOptions, Places

TRAIN, TEST = 0, 1  # streams of the hash
CROPS = (40, 160)  # metres
GAP = 5.0  # metres
_SEEN = 3  # pixels of a tower that make it seen
_VERSION = 1  # of how cities look: a file of another version is not found
_AT_ONCE = 256

Where = tuple[np.ndarray, np.ndarray, np.ndarray]
Keep = Callable[[np.ndarray, np.ndarray], np.ndarray]


def city_places(options: PlaceOptions) -> tuple[Places, Places]:
    """(train, test) of the cities that the options name, rendered on first use."""
    key = hashlib.sha256(repr((_VERSION, dataclasses.replace(options, augment=False))).encode()).hexdigest()[:16]
    path = cache_folder() / "places" / f"city-{key}.npz"
    names = ("photos", "lat", "lon", "true_lat", "true_lon", "ground", *(f"landmarks{c}" for c in CROPS))
    cities = [City(seed, options.side) for seed in (*options.cities, *options.held)]
    parts = []
    try:
        arrays = read_arrays(path, [f"{part}.{name}" for part in ("train", "test") for name in names])
    except NextsetError:  # not there yet, or damaged: either way it can be made again
        arrays = {}
        for part, made in zip(("train", "test"), _make(options, cities), strict=True):
            arrays |= {f"{part}.{name}": value for name, value in zip(names, made, strict=True)}
        write_arrays(path, arrays)
    for part in ("train", "test"):
        photos, *rest, near, wide = (arrays[f"{part}.{name}"] for name in names)
        lat, lon, true_lat, true_lon, ground = (torch.from_numpy(values) for values in rest)
        marks = dict(zip(CROPS, (near, wide), strict=True))
        augment = options.augment and part == "train"
        grounds: list[Ground] = [*cities]
        parts.append(Places(photos, lat, lon, true_lat, true_lon, ground, grounds, "city", marks, augment))
    return parts[0], parts[1]


def _make(options: PlaceOptions, cities: list[City]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Arrays of the photos to train on, and of those to test on."""
    own = len(options.cities)
    tested = range(own, len(cities)) if options.held else range(own)
    look = PhotoOptions(options.exposure, options.occluders, options.season)
    train: list[list[np.ndarray]] = []
    test: list[list[np.ndarray]] = []
    for k, city in enumerate(cities):
        where = None
        if k < own:
            share = options.train // own + (k < options.train % own)
            away = (lambda x, y, c=city: ~_held(c, x, y)) if options.split == "region" else None
            where = draw(city, share, TRAIN, away)
            train.append(_render(city, k, where, options, look, TRAIN))
        if k in tested:
            share = options.val // len(tested) + (k - tested[0] < options.val % len(tested))
            keep: Keep | None = None
            if options.split == "region":
                keep = lambda x, y, c=city: _held(c, x, y)  # noqa: E731
            elif options.split == "gap" and where is not None:
                keep = lambda x, y, w=where: _apart(w, x, y)  # noqa: E731
            test.append(_render(city, k, draw(city, share, TEST, keep), options, look, TEST))
    return tuple([np.concatenate(each) for each in zip(*part, strict=True)] for part in (train, test))  # type: ignore[return-value]


def draw(city: City, count: int, stream: int, keep: Keep | None = None) -> Where:
    """The first `count` places (x, y, heading) of a stream that `keep(x, y)` lets through."""
    tried = count
    while True:
        x, y, heading = city.stands(tried, stream)
        at = np.arange(tried) if keep is None else np.nonzero(keep(x, y))[0]
        if len(at) >= count:
            at = at[:count]
            return x[at], y[at], heading[at]
        if tried > 2**21:
            raise NextsetError(
                f"city {city.seed} has only {len(at)} places for {count} photos of this split; ask for fewer"
            )
        tried *= 2


def _held(city: City, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squares of 320 m that training never enters: an eighth of them."""
    return hashed(city.seed, 301, (x // DISTRICT).astype(np.int64), (y // DISTRICT).astype(np.int64)) < 0.125


def _apart(where: Where, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points are at least 5 m from all of `where`."""
    others = torch.from_numpy(np.stack(where[:2], 1)).float()
    points = torch.from_numpy(np.stack([x, y], 1)).float()
    exact = "donot_use_mm_for_euclid_dist"
    near = [torch.cdist(some, others, compute_mode=exact).amin(1) for some in points.split(512)]
    return (torch.cat(near) >= GAP).numpy()


def _render(
    city: City, number: int, where: Where, options: PlaceOptions, look: PhotoOptions, stream: int
) -> list[np.ndarray]:
    """Photos, recorded and true positions, the city's number, landmarks."""
    x, y, heading = where
    photos, marks = [], []
    for start in range(0, len(x), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        numbers = np.arange(start, min(start + _AT_ONCE, len(x)))
        shot = photograph(city, x[some], y[some], heading[some], options.size, look, numbers, stream)
        photos.append(shot.photos.numpy())
        marks.append(landmarks(city, shot, x[some], y[some]))
    true = city.degrees(torch.from_numpy(x), torch.from_numpy(y))
    told = true
    if options.gps_noise:
        off = Noise(city.seed, f"city/{stream}/gps").normal(torch.arange(len(x)), torch.arange(2)).double()
        moved = torch.from_numpy(np.stack([x, y], 1)) + options.gps_noise * off
        told = city.degrees(*moved.clamp(0, city.side - 1e-6).unbind(1))
    near, wide = np.concatenate(marks).T
    seeds = np.full(len(x), number, np.int64)
    return [np.concatenate(photos), *(v.numpy() for v in (*told, *true)), seeds, near, wide]


def landmarks(city: City, shot: Shot, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the towers stand that a photo shows, for crops of 40 and 160 m around the 40 m cell of its place: int8 (n, 2).

    0: it shows none; 1: some of what it shows of towers is inside the crop; 2: all is outside, so that a fixed crop cannot
    know them. Fewer than three pixels are not seen.
    """
    tower = torch.from_numpy(city.painted.tower)[shot.thing.long()]
    cell = torch.from_numpy(np.stack([x, y], 1) // 40 * 40 + 20).float()[:, :, None, None]
    far = (shot.place - cell).abs().nan_to_num(np.inf).amax(1)
    marks = []
    for crop in CROPS:
        inside = (tower & (far <= crop / 2)).sum((1, 2)) >= _SEEN
        some = tower.sum((1, 2)) >= _SEEN
        marks.append(torch.where(inside, 1, torch.where(some, 2, 0)))
    return torch.stack(marks, 1).to(torch.int8).numpy()
