"""Whether probabilities mean what they say: reliability, expected calibration error, and the temperature that mends it.

Sources: Guo et al. 2017 (arXiv 1706.04599): equal bins of confidence, ECE, temperature scaling by likelihood.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from nextset.core.errors import NextsetError, check_range


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Answers by confidence. edges (bins + 1,); count, confidence (mean), accuracy (share right) per bin, None where a bin is
    empty. ece: mean gap between both, weighted by count."""

    edges: list[float]
    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]
    ece: float


def reliability(confidence: Tensor, right: Tensor, bins: int = 10) -> Reliability:
    """confidence (N,) in [0, 1] and whether the answer was right (N,)."""
    check_range("bins", bins, 1, 1000)
    if len(confidence) != len(right) or not len(right):
        raise NextsetError(
            f"{len(confidence)} confidences do not fit {len(right)} answers; give one for each, and at least one"
        )
    p, hit = confidence.double().clamp(0, 1).numpy(), right.double().numpy()
    at = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(at, minlength=bins)
    said, was = (np.bincount(at, v, bins) / count.clip(min=1) for v in (p, hit))
    ece = float((np.abs(said - was) * count).sum() / len(p))
    means = ([float(v) if n else None for v, n in zip(values, count, strict=True)] for values in (said, was))
    confident, accurate = means
    return Reliability([i / bins for i in range(bins + 1)], count.tolist(), confident, accurate, ece)


def fit_temperature(logits: Tensor, target: Tensor, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature in [low, high] at which softmax(logits / T) makes the targets likeliest.

    logits (N, V), -inf where a choice is not open; target (N,). Fit it on photos that are neither trained on nor tested.
    The likelihood has one maximum in 1 / T, found by golden section to about 1e-4 of T.
    """
    if logits.dim() != 2 or target.shape != logits.shape[:1] or not len(target):
        raise NextsetError(
            f"logits {tuple(logits.shape)} do not fit targets {tuple(target.shape)}; give (N, V) and (N,)"
        )
    logits = logits.double()

    def loss(log_t: float) -> float:
        scaled = (logits / float(np.exp(log_t))).log_softmax(-1)
        return -float(scaled.gather(1, target[:, None]).mean())

    a, b = float(np.log(low)), float(np.log(high))
    ratio = (5**0.5 - 1) / 2
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    fc, fd = loss(c), loss(d)
    while b - a > 1e-4:
        if fc < fd:
            b, d, fd = d, c, fc
            c = b - ratio * (b - a)
            fc = loss(c)
        else:
            a, c, fc = c, d, fd
            d = a + ratio * (b - a)
            fd = loss(d)
    return float(np.exp((a + b) / 2))
