"""Sliced Wasserstein distance: two sets seen along random lines through the space of pixels.

Along a line, the best transport is by rank, so each line costs a sort. Few lines and raw pixels: it sees colour, contrast
and layout, and hardly any noise.
"""

from __future__ import annotations

import numpy as np

from nextset.core.errors import NextsetError
from nextset.judges.hashing import SEED, symmetric

DIRECTIONS = 256
_STREAM = 100
_MEMORY = 2**29


def directions(width: int, count: int = DIRECTIONS, seed: int = SEED) -> np.ndarray:
    """Unit vectors, float64 (count, width)."""
    if width * count * 8 > _MEMORY:
        raise NextsetError(
            f"swd on {width:,} values a picture needs {width * count * 8:,} bytes of directions, but at most "
            f"{_MEMORY:,} are used; judge smaller pictures: --size 256"
        )
    rows = symmetric(seed, _STREAM, np.arange(count * width)).reshape(count, width)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Lines:
    """Where pictures fall on the lines: uint8 (N, H, W, 3) -> float32 (N, count)."""

    def __init__(self, size: tuple[int, int], count: int = DIRECTIONS, seed: int = SEED) -> None:
        self._columns = directions(size[0] * size[1] * 3, count, seed).T.astype(np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), -1).astype(np.float32) / 255) @ self._columns


def swd(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference by rank of two sets on the same lines: (N, count) twice. Of the larger set, the first
    pictures are used."""
    n = min(len(a), len(b))
    x, y = (np.sort(s[:n].astype(np.float64), axis=0) for s in (a, b))
    return float(np.sqrt(((x - y) ** 2).mean()))
