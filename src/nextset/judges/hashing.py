"""Numbers by counter, bit exact on every machine: a 64-bit hash of (seed, stream, index).

What is drawn here (weights of the random network, directions, the order of a set) is part of a judge's definition, so
it cannot come from a library's generator, which may change.
"""

from __future__ import annotations

import numpy as np

from nextset.core.splitmix import mix

SEED = 20240607


def words(seed: int, stream: int, index: np.ndarray) -> np.ndarray:
    """uint64 words of the counters `index` (any shape, whole numbers >= 0) in one stream of a seed."""
    key = mix(mix(np.array(seed, dtype=np.uint64)) ^ np.uint64(stream))
    return mix(key ^ np.asarray(index).astype(np.uint64))


def symmetric(seed: int, stream: int, index: np.ndarray) -> np.ndarray:
    """float64 in (-1, 1): odd multiples of 2^-24, which float32 holds exactly."""
    return ((words(seed, stream, index) >> np.uint64(40)).astype(np.float64) * 2 + (1 - 2**24)) / 2**24


def order(count: int, stream: int, seed: int = SEED) -> np.ndarray:
    """A fixed random order of `count` things, int64: its first n are the sample of size n, for every n."""
    return np.argsort(words(seed, stream, np.arange(count)), kind="stable")
