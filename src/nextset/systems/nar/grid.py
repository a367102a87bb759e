"""Where the slots lie: a prefix of condition slots, and the cells of an image or of a clip, diagonal after diagonal."""

from __future__ import annotations

import dataclasses
import functools
from math import prod

import torch
from torch import Tensor

from nextset.core.diagonal import diagonal
from nextset.core.plan import Plan
from nextset.systems.llamagen.grid import Grid


@dataclasses.dataclass(frozen=True)
class Diagonals(Grid):
    """shape: (h, w), or (t, h, w). nearest: one tap, from the first neighbour that there is, in place of one an axis."""

    shape: tuple[int, ...] = ()
    nearest: bool = False

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        h, w = self.shape[-2:]
        return ((h, w),) * prod(self.shape[:-2])

    @property
    def positions(self) -> int:
        return prod(self.shape)

    @property
    def plan(self) -> Plan:
        """One step a diagonal; the condition slots are fed with the first."""
        return _plan(self.conditions, self.shape, self.nearest)

    @property
    def order(self) -> Tensor:
        return _order(self.plan)


@functools.lru_cache(maxsize=16)
def _plan(conditions: int, shape: tuple[int, ...], nearest: bool) -> Plan:
    return diagonal(conditions, shape, nearest=nearest)


@functools.lru_cache(maxsize=16)
def _order(plan: Plan) -> Tensor:
    """Positions as they are drawn, which is as they are fed."""
    return torch.cat([step.draw for step in plan.steps])
