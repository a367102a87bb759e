"""Sizes of FlowAR, and what it is trained with. Source: sheet `flowar`, Model and Training."""

from __future__ import annotations

import dataclasses

from nextset.heads.flow_net import Mix
from nextset.nn.gated import TURNS_FIT, StacksConfig, turns_fit


@dataclasses.dataclass(frozen=True)
class FlowArConfig(StacksConfig):
    """Sizes of the two stacks and the flow head.

    scales: sides of the pyramid, which ends with the grid. head_depth, head_width, head_heads: of the flow network (None =
    heads of 64 channels). mix: its blocks, "attention" (v1 of the authors) or "cross" (v2). pooled: one condition a scale
    instead of one a position, for comparison.
    """

    width: int = 1024
    heads: int = 16
    scales: tuple[int, ...] = (1, 2, 4, 8, 16)
    head_depth: int = 12
    head_width: int = 1024
    head_heads: int | None = None
    mix: Mix = "cross"
    pooled: bool = False

    def check(self) -> None:
        super().check()
        growing = list(self.scales) == sorted(set(self.scales)) and min(self.scales, default=0) >= 1
        fits = growing and self.scales[-1] == self.sides[0]
        self.require("scales", fits, f"growing sides that end with that of the grid, {self.sides[0]}")
        self.require("head_depth", 1 <= self.head_depth <= 64, "between 1 and 64")
        self.require("head_width", 8 <= self.head_width <= 16384, "between 8 and 16384")
        fit = turns_fit(self.head_width, self.flow_heads)
        self.require("head_heads", fit, TURNS_FIT.format(self.head_width))

    @property
    def flow_heads(self) -> int:
        """Heads of the flow network."""
        return max(1, self.head_width // 64) if self.head_heads is None else self.head_heads
