"""Pixels: what the judges take for a picture, its smaller version, and how far two pictures are apart.

Every judge sees 8 bits, so that writing a picture to PNG and reading it back changes no number.
"""

from __future__ import annotations

import numpy as np

from nextset.core.errors import NextsetError

_SIGMA, _REACH = 1.5, 5
_C1, _C2 = 1e-4, 9e-4  # (0.01)^2 and (0.03)^2, for a range of 1


def as_rgb(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) of uint8 (N, H, W, 3), (N, H, W, 1) or (N, H, W): grey is repeated."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise NextsetError(
            f"pictures are {images.dtype} {images.shape}, but judges need uint8 (N, height, width, 3) or grey ones; "
            "ArraySet.of_images takes floats"
        )
    if images.ndim == 3:
        images = images[..., None]
    return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)


def _averages(n: int, r: int) -> np.ndarray:
    """(r, n): row i averages [i n / r, (i + 1) n / r) of a signal that is constant on each of n pixels."""
    edges = np.arange(r + 1) * n / r
    pixels = np.arange(n)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0, None) * r / n


def box_resize(images: np.ndarray, side: int) -> np.ndarray:
    """(N, H, W, C) -> float64 (N, side, side, C) in the same units: exact area averages, fractional pixels weighted.

    A side that already fits is left as it is.
    """
    x = images.astype(np.float64)
    _, h, w, _ = x.shape
    if h != side:
        x = np.tensordot(x, _averages(h, side), axes=(1, 1)).transpose(0, 3, 1, 2)
    if w != side:
        x = np.tensordot(x, _averages(w, side), axes=(2, 1)).transpose(0, 1, 3, 2)
    return x


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of pairs, in dB: uint8 (N, H, W, 3) twice -> float64 (N,), at most 100."""
    _check_pairs(a, b)
    mse = (((a.astype(np.float64) - b) / 255) ** 2).mean(axis=(1, 2, 3))
    return np.minimum(100.0, -10 * np.log10(np.maximum(mse, 1e-10)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of pairs: uint8 (N, H, W, 3) twice -> float64 (N,), at most 1.

    Gaussian window of 11 pixels with sigma 1.5, at the positions where it lies inside; population variances; mean over
    positions and channels. Source: Wang et al. 2004.
    """
    _check_pairs(a, b)
    if min(a.shape[1:3]) < 2 * _REACH + 1:
        raise NextsetError(f"pictures are {a.shape[1]} x {a.shape[2]}, but ssim needs at least 11 pixels a side")
    x, y = a.astype(np.float64) / 255, b.astype(np.float64) / 255
    mx, my = _window(x), _window(y)
    vx, vy = _window(x * x) - mx * mx, _window(y * y) - my * my
    c = _window(x * y) - mx * my
    s = ((2 * mx * my + _C1) * (2 * c + _C2)) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return s.mean(axis=(1, 2, 3))


def _window(x: np.ndarray) -> np.ndarray:
    """Weighted mean around every inner position: (N, H, W, C) -> (N, H - 10, W - 10, C)."""
    g = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * _SIGMA**2))
    return convolve(convolve(x, g / g.sum(), 1), g / g.sum(), 2)


def convolve(x: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Symmetric taps along one axis of (N, H, W, C), at the positions where they fit."""
    length = x.shape[axis] - len(taps) + 1
    parts = (t * x[(slice(None),) * axis + (slice(k, k + length),)] for k, t in enumerate(taps))
    total = next(parts)
    for part in parts:
        total += part
    return total


def _check_pairs(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise NextsetError(f"pairs need the same number and size, but the sets are {a.shape} and {b.shape}")
