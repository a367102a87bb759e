"""A share with its interval: how often something was right, and how sure that is.

Wilson's interval (1927), at the number of independent trials that the answers are worth: four pictures of one prompt are
often right or wrong together, and then count as fewer.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from nextset.core.errors import NextsetError

_Z = 1.959963984540054  # two-sided 95 %


@dataclasses.dataclass(frozen=True)
class Share:
    """value: of `n` answers to `prompts` prompts that are right. low, high: 95 % interval."""

    value: float
    n: int
    prompts: int
    low: float
    high: float


def wilson(value: float, n: float) -> tuple[float, float]:
    """95 % interval of a share found in n independent trials."""
    middle = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(value * (1 - value) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(right: np.ndarray, prompts: np.ndarray) -> Share | None:
    """right (N,): 1, 0, or NaN where there was no question; prompts (N,): which prompt each answers. None without any answer.

    The number of independent trials is that at which a share would scatter as the prompts' means do: between the number of
    prompts and that of answers.
    """
    if len(right) != len(prompts):
        raise NextsetError(f"{len(right)} answers do not fit {len(prompts)} prompts; give one prompt for each")
    asked = ~np.isnan(right)
    if not asked.any():
        return None
    hits, groups = right[asked], np.unique(prompts[asked], return_inverse=True)[1]
    n, k, value = len(hits), int(groups.max()) + 1, float(hits.mean())
    worth = float(k)
    off = np.bincount(groups, hits - value)  # sums over a prompt, from what would be expected
    scatter = float((off**2).sum()) / n**2 * (k / max(1, k - 1))
    if k == n:
        worth = float(n)
    elif 0 < value < 1 and scatter > 0:
        worth = min(float(n), max(float(k), value * (1 - value) / scatter))
    return Share(value, n, k, *wilson(value, worth))
