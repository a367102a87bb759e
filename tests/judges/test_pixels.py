"""Pixels: what a judge takes for a picture, exact area averages, and the two measures of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.pixels import as_rgb, box_resize, psnr, ssim
from tests.judges.scenes import refused, scenes


def test_grey_is_repeated() -> None:
    grey = scenes(2)[..., 0]
    for images in (grey, grey[..., None]):
        assert (as_rgb(images) == np.stack([grey] * 3, -1)).all()


@pytest.mark.parametrize("images", [scenes(2) / 255, scenes(2)[..., :2], scenes(2)[0, 0]])
def test_what_is_no_picture_is_refused(images: np.ndarray) -> None:
    assert "judges need uint8 (N, height, width, 3)" in refused(as_rgb, images)


def test_whole_boxes_are_plain_means() -> None:
    images = scenes(3, side=12)
    assert np.allclose(box_resize(images, 4), images.reshape(3, 4, 3, 4, 3, 3).mean(axis=(2, 4)))


def test_parts_of_pixels_are_weighted() -> None:
    row = np.array([0.0, 30.0, 60.0])[None, None, :, None]
    assert np.allclose(box_resize(np.repeat(row, 3, 1), 2)[0, 0, :, 0], [10, 50])  # (0 + 30/2) / 1.5, (30/2 + 60) / 1.5


@pytest.mark.parametrize("side", [5, 11, 16, 23])
def test_every_size_keeps_the_mean_and_a_fitting_one_everything(side: int) -> None:
    images = scenes(2, side=16)[:, :11]
    assert np.allclose(box_resize(images, side).mean(axis=(1, 2)), images.mean(axis=(1, 2)))
    square = scenes(1, side=side)
    assert (box_resize(square, side) == square).all()


def test_psnr_of_a_known_difference() -> None:
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 51  # a fifth of 255
    assert psnr(a, b).tolist() == pytest.approx([100, 20 * np.log10(5)])


def test_ssim_of_equal_and_of_flat_pictures() -> None:
    images = scenes(2)
    assert ssim(images, images) == pytest.approx([1, 1])
    x, y = 51 / 255, 204 / 255
    flat = [np.full((1, 11, 11, 3), value, np.uint8) for value in (51, 204)]
    assert ssim(*flat)[0] == pytest.approx((2 * x * y + 1e-4) / (x * x + y * y + 1e-4))


def test_ssim_against_a_slow_reading_of_its_definition() -> None:
    a, b = scenes(1, 0, side=12)[0] / 255, scenes(1, 1, side=12)[0] / 255
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g)[..., None] / g.sum() ** 2
    values = []
    for i in range(2):
        for j in range(2):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (window * x).sum((0, 1)), (window * y).sum((0, 1))
            vx, vy = (window * (x - mx) ** 2).sum((0, 1)), (window * (y - my) ** 2).sum((0, 1))
            c = (window * (x - mx) * (y - my)).sum((0, 1))
            values.append((2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(scenes(1, 0, side=12), scenes(1, 1, side=12))[0] == pytest.approx(np.mean(values), abs=1e-12)


def test_pairs_that_do_not_fit_are_refused() -> None:
    assert "pairs need the same number and size" in refused(psnr, scenes(2), scenes(3))
    assert "at least 11 pixels" in refused(ssim, scenes(2, side=10), scenes(2, side=10))
