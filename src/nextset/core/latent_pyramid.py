"""The canvas of continuous scales: one map of latents at several sizes, each a whole picture of its own.

No scale is a residual: scale k is the map shrunk to its side by averaging, so any map has a pyramid, and the last scale is
the map. It knows no tokenizer and no head. Source: arXiv 2412.15205, section 3.2; sheet `flowar`, Tokenizer.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.latents import Latents
from nextset.core.steps import Step

Side = tuple[int, int]


def shrink(maps: Tensor, side: Side) -> Tensor:
    """Maps (N, C, H, W) -> (N, C, h, w): means over blocks, of unequal sizes where h does not divide H."""
    return F.adaptive_avg_pool2d(maps, side)


def grow(maps: Tensor, side: Side) -> Tensor:
    """Maps (N, C, h, w) -> (N, C, H, W), bicubically between cell centres."""
    return F.interpolate(maps, size=side, mode="bicubic", align_corners=False)


def pyramid(maps: Tensor, sides: Sequence[Side]) -> Tensor:
    """Maps (N, C, H, W) -> tokens (N, L, C) of all scales, one after another, each in raster order."""
    return torch.cat([shrink(maps, side).flatten(2).transpose(1, 2) for side in sides], 1)


class LatentPyramid(Latents):
    """Tokens (N, L, C), scale after scale, of the plan `scale_pyramid(sides)`; sides are (h, w) pairs, the last the largest.

    The input of a scale is the scale before it, grown to the last side and shrunk to this one: (N, n, C); the first has
    none, and gets zeros.
    """

    def __init__(
        self, sides: Sequence[Side], entries: int, channels: int, *, device: torch.device | str = "cpu"
    ) -> None:
        self.sides = tuple(sides)
        self.starts = [0, *itertools.accumulate(h * w for h, w in self.sides)]
        super().__init__(entries, self.starts[-1], channels, device=device)
        self._drawn = [False] * len(self.sides)

    def scale(self, step: Step) -> int:
        """The scale whose positions a step draws."""
        return bisect.bisect_right(self.starts, int(step.draw[0])) - 1

    def known(self, k: int) -> bool:
        """Whether scale k is drawn or given."""
        return self._drawn[k] or bool(self.given[:, self.starts[k] : self.starts[k + 1]].all())

    def maps(self, k: int) -> Tensor:
        """Scale k as a map (N, C, h_k, w_k)."""
        return self.values[:, self.starts[k] : self.starts[k + 1]].transpose(1, 2).unflatten(-1, self.sides[k])

    def picture(self) -> Tensor:
        """The last scale up to which everything is known, grown to the last side: (N, C, H, W); zeros where nothing is."""
        unknown = next((k for k in range(len(self.sides)) if not self.known(k)), len(self.sides))
        if unknown == len(self.sides):
            return self.maps(unknown - 1)
        if unknown == 0:
            return self.values.new_zeros(*self.values.shape[::2], *self.sides[-1])
        return grow(self.maps(unknown - 1), self.sides[-1])

    def input(self, step: Step) -> Tensor:
        parts = []
        for single in step.steps:
            k = self.scale(single)
            if k == 0:
                parts.append(self.values.new_zeros(len(self.values), single.rows, self.values.shape[-1]))
                continue
            if not self.known(k - 1):
                raise NextsetError(
                    f"scale {k} was asked for while scale {k - 1} is neither drawn nor given; run the steps in order"
                )
            seen = shrink(grow(self.maps(k - 1), self.sides[-1]), self.sides[k])
            parts.append(seen.flatten(2).transpose(1, 2))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given; scales behind it must be drawn again."""
        super().write(step, drawn)
        for single in step.steps:
            k = self.scale(single)
            self._drawn[k:] = [True] + [False] * (len(self.sides) - k - 1)
