"""How much each scale weighs in the loss. Source: sheet `hmar`, Training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor


def lognorm(sides: Sequence[int]) -> list[float]:
    """Total weight of each scale; they sum to 1. A bell over the sides, read from the finest to the coarsest: with
    r = p / p_K of mean m and deviation s, u_k = exp(-((r_{K+1-k} - m) / s)^2 / 2). The middle scales weigh most."""
    ratios = [side / sides[-1] for side in sides]
    mean, deviation = statistics.mean(ratios), statistics.stdev(ratios)
    bell = [math.exp(-(((r - mean) / deviation) ** 2) / 2) for r in reversed(ratios)]
    return [u / sum(bell) for u in bell]


def token_weights(rule: str, sides: Sequence[int]) -> Tensor:
    """Weight of each token (L,) float32: "lognorm", "equal" (each scale 1 in total) or "token" (each token 1 / L)."""
    sizes = [side * side for side in sides]
    totals = {
        "lognorm": lambda: lognorm(sides),
        "equal": lambda: [1.0] * len(sides),
        "token": lambda: [size / sum(sizes) for size in sizes],
    }[rule]()
    return torch.cat([torch.full((n,), total / n) for total, n in zip(totals, sizes, strict=True)])
