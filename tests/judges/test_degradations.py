"""Changes of known size."""

from __future__ import annotations

import numpy as np

from nextset.judges.degradations import add_noise, blur, mirror
from tests.judges.scenes import scenes


def test_blur_keeps_flat_pictures_and_spreads_a_point_as_a_gaussian() -> None:
    flat = np.full((1, 12, 12, 3), 77, np.uint8)
    assert (blur(flat) == flat).all()
    point = np.zeros((1, 21, 21, 3), np.uint8)
    point[0, 10, 10] = 255
    g = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    expected = np.floor(255 * np.outer(g, g) / g.sum() ** 2 + 0.5)
    assert (blur(point)[0, 6:15, 6:15, 0] == expected).all() and blur(point)[0, :6].max() == 0


def test_blur_mirrors_the_border_edge_pixel_included() -> None:
    images = scenes(1, side=9)
    wide = np.pad(images, ((0, 0), (9, 9), (9, 9), (0, 0)), mode="symmetric")
    assert (blur(wide)[:, 9:18, 9:18] == blur(images)).all()


def test_noise_has_its_mean_and_size() -> None:
    grey = np.full((20, 32, 32, 3), 128, np.uint8)
    added = add_noise(grey).astype(float) - 128
    assert abs(added.mean()) < 0.2 and abs(added.std() - 10) < 0.2
    assert np.abs(added).max() <= round(10 * 2 * np.sqrt(3))  # a sum of four: at most 3.46 deviations


def test_noise_counts_along_the_set() -> None:
    images = scenes(6)
    whole = add_noise(images)
    assert (add_noise(images[4:], first=images[:4].size) == whole[4:]).all()
    assert (add_noise(images[4:]) != whole[4:]).any()


def test_mirror_twice_is_nothing() -> None:
    images = scenes(2)
    assert (mirror(mirror(images)) == images).all() and (mirror(images)[:, :, 0] == images[:, :, -1]).all()
