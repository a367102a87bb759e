"""Numbers by counter, bit exact on every machine: a 64-bit hash of (seed, stream, index).

What is drawn here (weights of the random network, directions, the order of a set) is part of a judge's definition, so
it cannot come from a library's generator, which may change. It is cheaper and simpler than `core.noise`, and fixed.

Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import numpy as np

SEED = 20240607

_GOLDEN, _FIRST, _SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(z: np.ndarray) -> np.ndarray:
    """uint64 of any shape -> uint64, modulo 2^64."""
    with np.errstate(over="ignore"):  # wrapping is meant
        z = np.asarray(z, dtype=np.uint64) + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        return z ^ (z >> np.uint64(31))


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
