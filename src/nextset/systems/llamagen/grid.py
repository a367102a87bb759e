"""Where the slots lie: a prefix of condition slots and a square grid in raster order, and the rotary turns of both.

Policies of positions. `grid` is LlamaGen's: a value turns by its row and its column, a condition slot is multiplied
by zero, so that its query and its key vanish: every value gives it score 0, and condition slots average each other's values
(sheet, Paper vs code). `grid_unit` leaves condition slots unturned. `sequence` turns every slot by its place in the sequence,
as language models do. `learned` turns nothing: the model adds a table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from nextset.core.plan import Plan
from nextset.core.plans import raster
from nextset.nn.rope import Turns, angles, frequencies, turns

Positions = Literal["grid", "grid_unit", "sequence", "learned"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """`conditions` slots, then the cells of a side x side grid."""

    conditions: int
    side: int

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the one map."""
        return ((self.side, self.side),)

    @property
    def positions(self) -> int:
        """Number of tokens; asks for no plan, which a model without storage must not make."""
        return self.side * self.side

    @property
    def plan(self) -> Plan:
        """One step a token; the condition slots are fed with the first."""
        return _plan(self.conditions, self.side)

    @property
    def order(self) -> Tensor | None:
        """The position that each value slot holds, None = raster order."""
        return None

    def turns(self, head_width: int, base: float, positions: Positions, device: torch.device) -> Turns | None:
        """The tables for heads of `head_width` channels, which must be a multiple of 4; None where nothing turns."""
        return None if positions == "learned" else _turns(self, head_width, base, positions, str(device))


@functools.lru_cache(maxsize=16)
def _plan(conditions: int, side: int) -> Plan:
    return raster(conditions, side * side, width=side)


@functools.lru_cache(maxsize=16)
def _turns(grid: Grid, head_width: int, base: float, positions: Positions, device: str) -> Turns:
    return Turns(*(t.to(device) for t in POLICIES[positions](grid.plan, head_width, base)))


def on_grid(plan: Plan, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Half of the channel pairs turn by the row, half by the column; condition slots do not turn."""
    cells = torch.stack([plan.slots["y"], plan.slots["x"]], -1)
    return turns(angles(cells, frequencies(head_width // 4, base)))


def on_grid_zero(plan: Plan, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """As `on_grid`, with condition slots multiplied by zero."""
    cos, sin = on_grid(plan, head_width, base)
    values = (plan.slots["segment"] == 1)[:, None]
    return cos * values, sin * values


def in_sequence(plan: Plan, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """All channel pairs turn by the slot."""
    return turns(angles(torch.arange(plan.size)[:, None], frequencies(head_width // 2, base)))


POLICIES: dict[str, Callable[[Plan, int, float], tuple[Tensor, Tensor]]] = {
    "grid": on_grid_zero,
    "grid_unit": on_grid,
    "sequence": in_sequence,
}
