"""A 64-bit hash for numbers that are part of a definition: what a judge measures with, what a city looks like.

It is cheaper and simpler than `noise`, and fixed. Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import numpy as np

_GOLDEN, _FIRST, _SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(z: np.ndarray) -> np.ndarray:
    """uint64 of any shape -> uint64, modulo 2^64."""
    with np.errstate(over="ignore"):  # wrapping is meant
        z = np.asarray(z, dtype=np.uint64) + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        return z ^ (z >> np.uint64(31))
