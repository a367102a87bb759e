"""Refinement: a scale is drawn at once, then its least certain positions again, in more steps over the same slots.

`refined_pyramid` is the plan, `RefinedPyramid` the canvas. How many steps, and how many positions each of them leaves
open, is a schedule that a request chooses. Nothing here knows a network: which blocks and head serve a step of phase
`REFINE` is a system's affair. Source: arXiv 2506.04421, section 4 (sheet `hmar`, Sampling).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.canvases import Drawn, ResidualPyramid, ResidualSum
from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.steps import Step
from nextset.core.views import Sees

REFINE = "refine"
# for each scale, how many of its positions each of its forwards settles
Schedule = Sequence[Sequence[int]]


def refined_pyramid(
    sides: Sequence[int | tuple[int, int]], schedule: Schedule, *, keep: bool = True, sees: Sees | None = None
) -> Plan:
    """`scale_pyramid` with as many steps at each scale as its list in the schedule is long; the first has phase "main",
    those after it `REFINE`. Every one feeds and draws the whole scale: which positions change is the canvas's affair."""
    plain = scale_pyramid(sides, keep=keep, sees=sees)
    _check(schedule, [step.rows for step in plain.steps])
    steps: list[Step] = []
    for step, settled in zip(plain.steps, schedule, strict=True):
        for j in range(len(settled)):
            own = torch.full_like(step.own, len(steps))
            steps.append(dataclasses.replace(step, index=len(steps), own=own, phase=REFINE if j else step.phase))
    return dataclasses.replace(plain, steps=tuple(steps), name="refined_pyramid")


def _check(schedule: Schedule, sizes: Sequence[int]) -> None:
    if len(schedule) != len(sizes):
        raise NextsetError(f"the schedule has {len(schedule)} lists, but must have one for each of {len(sizes)} scales")
    for k, (settled, size) in enumerate(zip(schedule, sizes, strict=True)):
        if sum(settled) != size or min(settled, default=0) < 1:
            raise NextsetError(
                f"the schedule of scale {k} is {list(settled)}, but must be positive numbers that add up to its {size} positions"
            )


def least_certain(logp: Tensor, count: int, among: Tensor) -> Tensor:
    """The `count` positions of each entry with the lowest log probability: logp (N, n), among (N, n) bool -> (N, n) bool.

    Fewer where `among` has fewer; of equally certain positions the lower ones come first.
    """
    order = logp.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < count) & among


class RefinedPyramid(ResidualPyramid):
    """A residual pyramid whose least certain ids are drawn again.

    The input of a `REFINE` step is (N, n, 2 width + 1): what any step of the scale is fed (the sum of the scales before
    it), the scale's own codes as they would be added to that sum, shrunk to the side of the scale, and 1 where a
    position is open (it will be drawn again), else 0. Laws must draw with log probabilities (`Drawn.logp`) where a
    schedule leaves positions open. Given values are never open.
    """

    def __init__(
        self,
        quantiser: ResidualSum,
        sides: Sequence[tuple[int, int]],
        entries: int,
        schedule: Schedule,
        **options: Any,
    ) -> None:
        super().__init__(quantiser, sides, entries, **options)
        # for each step of the plan, how many positions of its scale are drawn again after it
        self.left = [sum(settled[j + 1 :]) for settled in schedule for j in range(len(settled))]
        self.open = torch.zeros_like(self.given)

    def own(self, k: int) -> Tensor:
        """What scale k adds to the sum, shrunk to its own side: (N, h_k w_k, width)."""
        added = self.quantiser.contribution(self.quantiser.embed(self.ids[:, self._slice(k)]), k, self.sides)
        return self.quantiser.shrink(added, self.sides[k]).flatten(2).transpose(1, 2)

    def input(self, step: Step) -> Tensor:
        context = super().input(step)
        if step.phase != REFINE:
            return context
        own = torch.cat([self.own(self.scale(single)) for single in step.steps], 1)
        return torch.cat([context, own, self.open[:, step.draw, None].to(context.dtype)], -1)

    def write(self, step: Step, drawn: Drawn) -> None:
        """As a residual pyramid's; a `REFINE` step changes open positions only. Chooses what the next step draws again."""
        where = self._slice(self.scale(step))
        free = ~self.given[:, where]
        if step.phase == REFINE:
            free = free & self.open[:, where]
            drawn = Drawn(torch.where(self._each(free), drawn.value, self.ids[:, where]), drawn.logp)
        super().write(step, drawn)
        left = self.left[step.index]
        if left and drawn.logp is None:
            raise ValueError("the law of this step draws without log probabilities, which refinement ranks by")
        self.open[:, where] = least_certain(drawn.logp, left, free) if left else False  # type: ignore[arg-type]

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.open = self.open[rows]
