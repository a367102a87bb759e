"""Progressive training: scales enter one by one, each with a warm-up of its loss.

Pure functions of the iteration; off in all released models (sheet `var`, Training: progressive training).
"""

from __future__ import annotations

import math


def progressive_stage(
    it: int, total: int, warmup: float, fraction: float, first: int, scales: int
) -> tuple[int, float]:
    """(last scale that takes part, or -1 for all; which iteration of that stage this is, from 1).

    it, total: iteration (from 0) and their number. warmup: iterations before the stages start, as given, not rounded.
    fraction: share of `total` after which all scales take part. first: stage of the beginning. In the first stage and
    in the last, whose newest scale needs no warm-up, the count is infinite.
    """
    stage = _stage(it, total, warmup, fraction, first, scales)
    if stage == scales - 1:
        return -1, math.inf
    if stage <= first:
        return stage, math.inf
    # The stage begins near the iteration where the rounded progress reaches it; rounding decides the last digit.
    begin = math.ceil(warmup + (stage - first - 0.5) / (scales - 1 - first) * (fraction * total - warmup))
    while _stage(begin, total, warmup, fraction, first, scales) < stage:
        begin += 1
    while begin > 0 and _stage(begin - 1, total, warmup, fraction, first, scales) == stage:
        begin -= 1
    return stage, it - begin + 1


def newest_weight(within: float, warmup: float) -> float:
    """Weight of the newest scale's loss at iteration `within` of its stage: within / warmup, clamped to [0.01, 1]."""
    return min(max(within / warmup, 0.01), 1.0) if warmup > 0 else 1.0


def _stage(it: int, total: int, warmup: float, fraction: float, first: int, scales: int) -> int:
    if it <= warmup:
        return first
    if it >= fraction * total:
        return scales - 1
    progress = min(max((it - warmup) / (fraction * total - warmup), 0.0), 1.0)
    return first + round(progress * (scales - 1 - first))
