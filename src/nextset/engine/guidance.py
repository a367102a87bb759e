"""Guidance: weights of branches as functions of the step.

Weights are a table, one number per branch and step; the engine runs a branch only where its weight counts.
"""

from __future__ import annotations

from collections.abc import Callable

from nextset.core.errors import check_range
from nextset.core.steps import Step

Weights = Callable[[Step], tuple[float, ...]]


def ramp(extra: float, steps: int) -> Weights:
    """[1 + t, -t] with t growing linearly from 0 at the first step to `extra` at the last. extra = 0: no guidance."""
    check_range("guidance_scale", extra, 0, 1000, remedy="0 switches guidance off, 1.5 to 4 is usual")

    def weights(step: Step) -> tuple[float, float]:
        t = extra * step.index / (steps - 1) if steps > 1 else 0.0
        return 1 + t, -t

    return weights


def constant(scale: float) -> Weights:
    """[s, 1 - s] at every step. scale = 1: no guidance."""
    check_range("guidance_scale", scale, 0, 1000, remedy="1 switches guidance off")
    return lambda step: (scale, 1 - scale)


def alone(step: Step) -> tuple[float, ...]:
    """One branch, always."""
    return (1.0,)
