"""Noise for steps to come: few numbers cost as much as many, so that a loop of small steps draws those of many steps at once.

Numbers are addressed by image and position, never by what was drawn before: they are the same, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.plan import Plan

BLOCK = 4096  # numbers that are drawn at once


class Ahead:
    """A source for the draws of a plan's steps, in order. Asked for the uniform numbers of a step, it keeps those of the
    steps behind it, as long as images and attempt are the same; whatever else is asked goes to the source."""

    def __init__(self, source: Noise, plan: Plan) -> None:
        self._source, self._draws = source, [s.draw for s in plan.steps if s.draw.shape[-1]]
        self._place = {id(draw): i for i, draw in enumerate(self._draws)}
        self._kept: dict[int, Tensor] = {}
        self._for: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def uniform(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        """As `Noise.uniform`."""
        place = self._place.get(id(positions))
        if place is None:
            return self._source.uniform(images, positions, attempt=attempt, lanes=lanes)
        if self._for[1:] != (lanes,) or self._for[0][0] is not images or self._for[0][1] is not attempt:
            self._kept, self._for = {}, ((images, attempt), lanes)
        if place not in self._kept:
            self._kept = {}
            block: list[Tensor] = []
            size = 0
            for draw in self._draws[place:]:
                size += draw.shape[-1]
                if block and (draw.dim() != positions.dim() or size * len(images) * (lanes or 1) > BLOCK):
                    break
                block.append(draw)
            numbers = self._source.uniform(images, torch.cat(block, -1), attempt=attempt, lanes=lanes)
            parts = numbers.split([draw.shape[-1] for draw in block], 1)
            self._kept = {place + i: part for i, part in enumerate(parts)}
        return self._kept[place]
