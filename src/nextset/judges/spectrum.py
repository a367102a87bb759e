"""Power of brightness by radius of frequency. A weak tail is blur; a strong one is noise or a checkerboard."""

from __future__ import annotations

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])


def radial_power(images: np.ndarray) -> np.ndarray:
    """Mean power at radius 1..H/2 (cycles a picture) of each picture: uint8 (N, H, W, 3) -> float64 (N, H // 2).

    The picture's mean is taken off; no window. In a picture that is not square, a radius counts cycles a height.
    """
    _, h, w, _ = images.shape
    y = (images / 255.0) @ _LUMA
    y -= y.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(y)) ** 2 / (h * w) ** 2
    fy, fx = np.fft.fftfreq(h) * h, np.fft.fftfreq(w) * w * (h / w)
    radius = np.floor(np.hypot(fy[:, None], fx) + 0.5).astype(np.int64).ravel()
    by_radius = np.argsort(radius, kind="stable")
    starts = np.searchsorted(radius[by_radius], np.arange(1, h // 2 + 2))
    inside = by_radius[: starts[-1]]
    sums = np.add.reduceat(power.reshape(len(y), -1)[:, inside], starts[:-1], axis=1)
    return sums / np.diff(starts)


def decibels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How much more power set a has than set b at each radius, in dB: mean powers (R,) twice -> (R,)."""
    return 10 * np.log10(a + 1e-12) - 10 * np.log10(b + 1e-12)


def rpsd_db(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference over radii, in dB."""
    return float(np.abs(decibels(a, b)).mean())
