"""Guidance: weights of branches as functions of the step, or a controller that folds branches inside the trunk.

Weights are a table, one number per branch and step; the engine runs a branch only where its weight counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nextset.core.errors import check_range
from nextset.core.rows import expand, fold
from nextset.core.steps import Step
from nextset.engine.controllers import Controller

if TYPE_CHECKING:
    from nextset.engine.run import Run

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


def each_step(scales: Sequence[float]) -> Weights:
    """[s_k, 1 - s_k] at step k. A scale of 1 switches guidance off for that step."""
    for scale in scales:
        check_range("guidance_scale", scale, 0, 1000, remedy="1 switches guidance off")
    return lambda step: (scales[step.index], 1 - scales[step.index])


class GuideAt(Controller):
    """Guidance on a hidden state: behind some sites every one of two branches goes on as s x first + (1 - s) x second.

    scales: s of each step; where it is 1, both go on as they are. The second branch must run though its weight may be 0: `Branch.always`.
    """

    def __init__(self, sites: Sequence[str], scales: Sequence[float]) -> None:
        self.sites, self.scales = frozenset(sites), list(scales)

    def on_site(self, run: Run, site: str, h: Tensor) -> Tensor:
        if site not in self.sites:
            return h
        assert run.running is not None
        each = [torch.full((step.rows,), self.scales[step.index]) for step in run.running.steps]
        scale = torch.cat(each).to(h)[:, None]
        first, second = fold(h, 2)
        return torch.where(scale == 1, h, expand(torch.lerp(second, first, scale), 2))
