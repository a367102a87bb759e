"""Main axes of a set's pixels."""

from __future__ import annotations

import numpy as np

from nextset.judges.frechet import Moments
from nextset.judges.pca import Basis, flat_pixels
from tests.judges.scenes import scenes


def test_axes_are_those_of_a_singular_value_decomposition() -> None:
    images = scenes(200, side=8)
    x = images.reshape(200, -1) / 255
    basis = Basis.of(Moments.of(flat_pixels(images)), 10)
    _, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert np.allclose(basis.variances, s[:10] ** 2 / 200)
    assert np.allclose(np.abs((basis.axes.T * v[:10]).sum(1)), 1)
    assert np.allclose(basis(images).var(0), basis.variances)


def test_order_of_the_set_does_not_matter() -> None:
    images = scenes(150, side=8)
    one, two = (Basis.of(Moments.of(flat_pixels(x)), 5) for x in (images, images[::-1]))
    assert np.allclose(one(images) ** 2, two(images) ** 2)  # an axis has no sign


def test_large_pictures_are_averaged_to_32() -> None:
    images = scenes(2, side=64)
    assert np.allclose(flat_pixels(images), images.reshape(2, 32, 2, 32, 2, 3).mean((2, 4)).reshape(2, -1) / 255)
    assert flat_pixels(scenes(2, side=8)).shape == (2, 192)
