"""Changes of known kind and size: a judge that does not see them is blind to them.

uint8 (N, H, W, 3) in and out, bit exact, so that a table of reference values can be made again anywhere.
"""

from __future__ import annotations

import math

import numpy as np

from nextset.judges.hashing import SEED, words
from nextset.judges.pixels import convolve

_NOISE_STREAM = 200


def blur(images: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Gaussian blur, cut at 4 sigma; the border is mirrored, edge pixels included."""
    reach = math.ceil(4 * sigma)
    g = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    x = images.astype(np.float64)
    for axis in (1, 2):
        around = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
        x = convolve(np.pad(x, around, mode="symmetric"), g / g.sum(), axis)
    return _round(x)


def add_noise(images: np.ndarray, level: float = 10.0, first: int = 0) -> np.ndarray:
    """Add level * z grey levels, z nearly normal with variance 1.

    first: flat index of the first value within its set, for sets that are changed in parts.
    """
    w = words(SEED, _NOISE_STREAM, first + np.arange(images.size))
    total = sum((w >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4))
    z = (np.asarray(total).astype(np.float64) - 4 * 32767.5) / 65536 * math.sqrt(3)
    return _round(images + level * z.reshape(images.shape))


def mirror(images: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def _round(x: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)
