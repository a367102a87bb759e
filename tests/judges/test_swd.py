"""Sliced Wasserstein distance: unit directions by counter, transport by rank."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.hashing import SEED, symmetric
from nextset.judges.swd import Lines, directions, swd
from tests.judges.scenes import refused, scenes


def test_directions_are_rows_of_counters_at_unit_length() -> None:
    rows = directions(12, 5)
    raw = symmetric(SEED, 100, np.arange(60)).reshape(5, 12)
    assert np.allclose(rows, raw / np.sqrt((raw**2).sum(1))[:, None])


def test_flat_pictures_are_apart_by_their_difference_along_each_line() -> None:
    lines = Lines((4, 4))
    dark, light = (lines(np.full((20, 4, 4, 3), value, np.uint8)) for value in (51, 102))
    expected = 0.2 * np.sqrt((directions(48).sum(1) ** 2).mean())
    assert swd(dark, light) == pytest.approx(expected, rel=1e-5)


def test_against_ranks_by_hand() -> None:
    a, b = np.array([[3.0], [1.0], [2.0]]), np.array([[1.0], [5.0], [2.0]])
    assert swd(a, b) == pytest.approx(np.sqrt(4 / 3))  # 1-1, 2-2, 3-5


def test_zero_for_the_same_pictures_in_any_order() -> None:
    places = Lines((16, 16))(scenes(50))
    assert swd(places, places[::-1]) == 0
    assert swd(places, Lines((16, 16))(scenes(50, 1))) > 0


def test_of_the_larger_set_the_first_are_taken() -> None:
    places = Lines((16, 16))(scenes(50))
    assert swd(places, places[:30]) == 0


def test_pictures_that_are_too_large_are_refused() -> None:
    assert "--size 256" in refused(Lines, (512, 512))
