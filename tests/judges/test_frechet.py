"""Moments in parts, and the Frechet distance where it is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.frechet import Moments, Scale, frechet


def gaussian(count: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def exact(mean: np.ndarray, variances: np.ndarray) -> Moments:
    """Moments of a set with this mean and diagonal covariance."""
    return Moments(11, np.asarray(mean, float), np.diag(variances) * 10.0)


def same(a: Moments, b: Moments) -> bool:
    return a.count == b.count and np.allclose(a.mean, b.mean) and np.allclose(a.scatter, b.scatter)


def test_moments_are_those_of_numpy_however_they_are_gathered() -> None:
    x = gaussian(101, 5)
    whole = Moments.of(x)
    assert np.allclose(whole.covariance, np.cov(x.T)) and np.allclose(whole.mean, x.mean(0))
    parts = Moments.empty(5)
    for some in np.split(x, [1, 40, 40, 97]):
        parts.add(some)
    assert same(parts, whole)
    assert same(Moments.of(x[:30]).join(Moments.of(x[30:])), whole)
    assert same(Moments.empty(5).join(whole), whole) and same(whole.join(Moments.empty(5)), whole)


def test_a_far_mean_costs_no_digits() -> None:
    x = gaussian(200, 3)
    parts = Moments.empty(3)
    for some in np.split(x + 1e6, 10):
        parts.add(some)
    assert np.allclose(parts.covariance, np.cov(x.T), rtol=1e-8)


def test_float32_rows_are_cast_before_anything_is_summed() -> None:
    x = (gaussian(500, 3) + 1000).astype(np.float32)
    assert np.allclose(Moments.of(x).covariance, np.cov(x.astype(np.float64).T), rtol=1e-10)


def test_closed_forms() -> None:
    a, b = exact([0, 0], [4, 9]), exact([3, 4], [4, 9])
    assert frechet(a, b) == pytest.approx(25)
    assert frechet(exact([0, 0], [4, 9]), exact([0, 0], [1, 16])) == pytest.approx((2 - 1) ** 2 + (3 - 4) ** 2)


def test_zero_of_itself_symmetric_and_the_same_in_every_rotation() -> None:
    x, y = gaussian(300, 6, 0), gaussian(300, 6, 1)
    a, b = Moments.of(x), Moments.of(y)
    assert abs(frechet(a, a)) < 1e-9 * np.trace(a.covariance)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
    q, _ = np.linalg.qr(gaussian(6, 6, 2))
    assert frechet(Moments.of(x @ q), Moments.of(y @ q)) == pytest.approx(frechet(a, b))


def test_fewer_rows_than_columns_is_finite() -> None:
    assert frechet(Moments.of(gaussian(10, 40)), Moments.of(gaussian(300, 40, 1))) > 0


def test_mapped_moments_are_moments_of_mapped_rows() -> None:
    x, offset, matrix = gaussian(50, 5), gaussian(1, 5, 3)[0], gaussian(5, 5, 4)[:, :2]
    assert same(Moments.of(x).mapped(offset, matrix), Moments.of((x - offset) @ matrix))


def test_scale_gives_the_reference_weight_one_a_feature() -> None:
    x, y = gaussian(400, 4), gaussian(400, 4, 1)
    scale = Scale.of(Moments.of(y))
    assert np.allclose(np.diag(scale(Moments.of(y)).covariance), 1, atol=1e-5)
    deviation = y.std(0, ddof=1) + 1e-6
    rows = [Moments.of((z - y.mean(0)) / deviation) for z in (x, y)]
    assert frechet(scale(Moments.of(x)), scale(Moments.of(y))) == pytest.approx(frechet(*rows))


def test_scale_knows_features_that_stand_still() -> None:
    x = gaussian(50, 4)
    assert Scale.of(Moments.of(x)).still == 0
    x[:, 2] = 7
    assert Scale.of(Moments.of(x)).still == 1
