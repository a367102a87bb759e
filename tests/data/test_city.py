"""The procedural city: its hash, views, shadows and photos against slow readings of their rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.data.city import City
from nextset.data.city_plan import hashed, lines, shadows, styles
from nextset.data.city_streets import EYE, PhotoOptions, photograph

SIDE = 320


@pytest.fixture(scope="module")
def city() -> City:
    return City(4, SIDE)


def _mixed(z: int) -> int:
    mask = 2**64 - 1
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniforms_are_those_of_the_sheet() -> None:
    h = _mixed(7)
    for key in (3, 11):
        h = _mixed(h ^ key)
    assert float(hashed(7, 3, np.array([11]))[0]) == (h >> 40) / 2**24


def test_a_city_is_a_function_of_its_seed(city: City) -> None:
    again, other = City(4, SIDE), City(5, SIDE)
    assert np.array_equal(again.painted.top, city.painted.top)
    assert not np.array_equal(other.painted.top, city.painted.top)
    assert abs(other.lon - city.lon) > 0.1  # kilometres apart


def test_roads_are_90_to_170_metres_apart_and_free() -> None:
    gaps = np.diff(lines(1, 4000, 0))
    assert gaps.min() >= 89 and gaps.max() <= 171
    city = City(1, 640)
    assert not city.painted.height[city.painted.road].any()
    assert 0.05 < city.painted.road.mean() < 0.4


def test_what_stands_has_an_id_and_a_height(city: City) -> None:
    p = city.painted
    assert np.array_equal(p.thing > 0, p.height > 0)
    towers = p.height[p.tower[p.thing]]
    assert towers.size == 0 or (towers.min() >= 60 and towers.max() <= 120)


def test_a_style_is_that_of_the_nearest_site() -> None:
    sites = [
        ((cx - 1 + float(hashed(2, 1, 0, cx, cy))) * 320, (cy - 1 + float(hashed(2, 1, 1, cx, cy))) * 320, cx, cy)
        for cx in range(5)
        for cy in range(5)
    ]
    x, y = np.array([100.0, 500.0, 610.0]), np.array([50.0, 333.0, 612.0])
    for i, style in enumerate(styles(2, x, y)):
        best = min(sites, key=lambda s, i=i: (s[0] - x[i]) ** 2 + (s[1] - y[i]) ** 2)
        assert style == hashed(2, 2, best[2], best[3])


def test_shadows_against_the_rule() -> None:
    height = (np.random.default_rng(0).random((60, 60)) ** 6 * 90).astype(np.float32)
    slow = np.zeros_like(height, dtype=bool)
    for y in range(60):
        for x in range(60):
            slow[y, x] = any(height[y - k, x - k] > height[y, x] + 1.8 * k for k in range(1, min(40, x + 1, y + 1)))
    assert np.array_equal(shadows(height), slow)


def test_a_view_is_the_mean_of_what_it_covers(city: City) -> None:
    side = torch.tensor([float(SIDE)], dtype=torch.float64)
    at = torch.tensor([city.lat], dtype=torch.float64), torch.tensor([city.lon], dtype=torch.float64)
    exact = city.painted.top.reshape(8, 40, 8, 40, 3).mean((1, 3)).transpose(2, 0, 1)
    view = (city.view(*at, side, 8)[0].numpy() + 1) * 127.5
    assert np.abs(view - exact).max() < 1e-3
    # boxes whose edges lie between pixels: against a raster that is ten times finer
    lat, lon = city.degrees(torch.tensor([100.3]), torch.tensor([77.7]))
    view = (city.view(lat, lon, torch.tensor([12.4]), 4)[0].numpy() + 1) * 127.5
    fine = city.painted.top.repeat(10, 0).repeat(10, 1)[715:839, 941:1065]
    slow = fine.reshape(4, 31, 4, 31, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(view - slow).max() < 0.02


def test_ground_outside_is_grey(city: City) -> None:
    lat, lon = city.degrees(torch.tensor([-50.0]), torch.tensor([-50.0]))
    assert float((city.view(lat, lon, torch.tensor([40.0]), 4) * 127.5 + 127.5 - 127).abs().max()) < 1e-3


def test_degrees_and_metres_are_inverse(city: City) -> None:
    x, y = torch.tensor([3.0, 200.5], dtype=torch.float64), torch.tensor([310.0, 7.25], dtype=torch.float64)
    back = city.metres(*city.degrees(x, y))
    assert torch.allclose(torch.stack(back), torch.stack([x, y]), atol=1e-6)


def test_photos_are_taken_on_roads_along_them(city: City) -> None:
    x, y, heading = city.stands(200)
    assert city.painted.road[y.astype(int), x.astype(int)].all()
    assert (np.abs((heading + 45) % 90 - 45) <= 10 + 1e-9).all()
    few = city.stands(50)
    assert all(
        np.array_equal(a[:50], b) for a, b in zip((x, y, heading), few, strict=True)
    )  # a prefix, whatever the count
    assert not np.array_equal(city.stands(50, stream=1)[0], few[0])


def test_a_photo_sees_what_a_slow_ray_meets(city: City) -> None:
    pixels, (x, y, heading) = 8, (v[:3] for v in city.stands(3))
    shot = photograph(city, x, y, heading, pixels, PhotoOptions(exposure=0.0))
    steps = np.concatenate([np.arange(1, 40, 0.5), np.arange(40, 120, 1.0), np.arange(120, 300, 2.0)]).astype(
        np.float32
    )
    focal = pixels / math.tan(math.pi / 3)
    differ = 0
    for i in range(3):
        for j in range(2 * pixels):
            aside = math.atan((j + 0.5 - pixels) / focal)
            turn = math.radians(heading[i]) + aside
            px = np.floor(np.float32(x[i]) + np.float32(math.sin(turn)) * steps).astype(int)
            py = np.floor(np.float32(y[i]) - np.float32(math.cos(turn)) * steps).astype(int)
            there = (px >= 0) & (py >= 0) & (px < SIDE) & (py < SIDE)
            height = np.where(there, city.painted.height[py.clip(0, SIDE - 1), px.clip(0, SIDE - 1)], 0)
            for row in range(pixels):
                t = (pixels / 2 - row - 0.5) * math.cos(aside) / focal
                hit = np.nonzero((height > 0) & ((height - EYE) / steps >= t))[0]
                far = steps[hit[0]] if len(hit) else math.inf
                ground = EYE / -t if t < 0 else math.inf
                wall = len(hit) > 0 and far <= ground
                differ += bool(shot.thing[i, row, j] > 0) != bool(wall)
    assert differ <= 2  # where a ray touches a corner, the last bit decides


def test_options_change_what_they_say(city: City) -> None:
    x, y, heading = city.stands(16)
    plain = photograph(city, x, y, heading, 16, PhotoOptions(exposure=0.0)).photos.float()
    brighter = photograph(city, x, y, heading, 16, PhotoOptions(exposure=0.3)).photos.float()
    ratio = brighter.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    assert 0.65 < float(ratio.min()) < 0.95 < 1.02 < float(ratio.max()) < 1.35
    hidden = photograph(city, x, y, heading, 16, PhotoOptions(0.0, occluders=1.0)).photos.float()
    changed = (hidden != plain).any(1)
    assert bool(changed.flatten(1).any(1).all()) and not bool(changed[:, 0].any())  # boxes stand below
    brown = photograph(city, x, y, heading, 16, PhotoOptions(0.0, season=1.0)).photos.float()
    assert float((brown - plain)[:, 0].mean()) > 0.5  # redder where plants are


def test_numbers_address_the_look(city: City) -> None:
    x, y, heading = city.stands(6)
    options = PhotoOptions(0.3, 0.5, 0.5)
    whole = photograph(city, x, y, heading, 8, options).photos
    part = photograph(city, x[4:], y[4:], heading[4:], 8, options, np.array([4, 5])).photos
    assert torch.equal(whole[4:], part)


def test_bad_sizes_are_refused() -> None:
    for seed, side in ((-1, 640), (0, 100), (0, 20000)):
        with pytest.raises(NextsetError, match="must be between"):
            City(seed, side)
