"""Where cells lie: they tile their square, labels lead to them, distances are those of the sphere."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.systems.just_zoom_in import geometry

START = (38.8936, -77.0, 10_000.0)


def test_known_distances():
    quarter = math.pi / 2 * geometry.RADIUS
    assert geometry.distance(0.0, 0.0, 0.0, 90.0).item() == pytest.approx(quarter)
    assert geometry.distance(-90.0, 0.0, 0.0, 17.0).item() == pytest.approx(quarter)
    assert geometry.distance(10.0, 179.999, 10.0, -179.999).item() == pytest.approx(
        geometry.distance(10.0, 0.0, 10.0, 0.002).item()
    )
    assert geometry.distance(5.0, 5.0, 5.0, 5.0).item() == 0


@given(st.floats(-80, 80), st.floats(-180, 180), st.floats(0, 360), st.floats(0, 50_000))
def test_a_move_is_as_long_as_it_says(lat: float, lon: float, bearing: float, metres: float):
    to = geometry.move(lat, lon, bearing, metres)
    assert geometry.distance(lat, lon, *to).item() == pytest.approx(metres, abs=1e-3)
    assert -180 <= to[1].item() <= 180


def test_children_are_numbered_from_the_north_west_and_tile_their_square():
    lat, lon, side = geometry.children(*START, 4)
    assert lat.shape == (16,) and (side == 2500).all()
    assert lat[0] > lat[12] and lon[0] < lon[3], "row 0 is north, column 0 is west"
    east = geometry.distance(lat[5], lon[5], lat[5], lon[6])
    south = geometry.distance(lat[5], lon[5], lat[9], lon[9])
    assert east.item() == pytest.approx(2500, abs=1) and south.item() == pytest.approx(2500, abs=1)
    one = geometry.child(*START, 7, 4)
    assert torch.stack([t[7] for t in (lat, lon, side)]).equal(torch.stack(one))


@given(st.lists(st.integers(0, 8), min_size=4, max_size=4))
def test_the_centre_of_a_cell_has_the_label_of_the_cell(path: list[int]):
    """Where the plane of the labels and the great circles of the cells agree: away from edges."""
    actions, start = torch.tensor([path]), (38.9, -77.0, 2000.0)
    lat, lon, _ = geometry.follow(start, actions, 3)
    assert torch.equal(geometry.label(lat[:, -1], lon[:, -1], start, 3, 4), actions)


def test_a_label_is_within_half_a_diagonal():
    g = torch.Generator().manual_seed(0)
    east, north = (torch.rand(2, 500, generator=g, dtype=torch.float64) - 0.5) * 9_990
    place = geometry.shift(*START[:2], east, north)
    assert bool(geometry.inside(*place, START).all())
    lat, lon, side = geometry.follow(START, geometry.label(*place, START, 4, 4), 4)
    away = geometry.distance(lat[:, -1], lon[:, -1], *place)
    assert away.max() < side[0, -1] * 2**0.5 / 2 + 3, "3 m: labels and cells differ by the roundness of the earth"


def test_a_place_outside_is_known_to_be_outside():
    lat, lon = geometry.shift(*START[:2], torch.tensor([0.0, 5_100.0, 0.0]), torch.tensor([0.0, 0.0, -5_100.0]))
    assert geometry.inside(lat, lon, START).tolist() == [True, False, False]


def test_regions_are_squares_in_metres():
    _, lon, side = geometry.region((38.8936, -77.0116), (-3000, 7000, -5000, 5000))
    assert side == 10_000 and lon > -77.0116
    with pytest.raises(NextsetError, match="the region is 10000 m by 9000 m, but must be a square"):
        geometry.region((38.8936, -77.0116), (-3000, 7000, -4000, 5000))


def test_corners_go_round_from_the_north_west():
    lat, lon = geometry.corners(torch.tensor([10.0, 20.0]), torch.tensor([5.0, 6.0]), torch.tensor([100.0, 50.0]))
    assert lat.shape == (2, 4)
    assert (lat[:, 0] > lat[:, 3]).all() and (lon[:, 0] < lon[:, 1]).all() and (lat[:, 1] > lat[:, 2]).all()
    diagonal = geometry.distance(lat[0, 0], lon[0, 0], lat[0, 2], lon[0, 2])
    assert diagonal.item() == pytest.approx(100 * 2**0.5, rel=1e-3)


def test_recall_counts_the_limit_itself():
    assert geometry.recall(torch.tensor([39.0, 40.0, 50.1, 100.0])).tolist() == [50.0, 50.0, 100.0]


def test_random_cells_are_as_near_as_the_area_says():
    """Claim (e): R@100 m of a random policy is about pi 100^2 / L0^2, less what lies beyond the edges."""
    g, start = torch.Generator().manual_seed(0), (38.9, -77.0, 2560.0)
    east, north = (torch.rand(2, 100_000, generator=g, dtype=torch.float64) - 0.5) * start[2]
    lat, lon, _ = geometry.follow(start, torch.randint(0, 16, (100_000, 3), generator=g), 4)
    away = geometry.distance(lat[:, -1], lon[:, -1], *geometry.shift(*start[:2], east, north))
    assert geometry.recall(away)[2].item() == pytest.approx(100 * math.pi * 100**2 / 2560**2, rel=0.12)
