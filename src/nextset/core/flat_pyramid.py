"""The flat pyramid: ids of scales that are whole pictures of their own, so that each can be shown alone.

Nothing is added up: a scale's input is the map before it, resized. Sides may come in any order, and repeat. How ids turn
into vectors is the quantiser's affair, which is handed in.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.canvases import Drawn, Ids
from nextset.core.errors import NextsetError
from nextset.core.steps import Step


class Vectors(Protocol):
    """What a flat pyramid needs of a quantiser: ids (N, n) -> vectors (N, n, C)."""

    channels: int

    def embed(self, ids: Tensor) -> Tensor: ...


class FlatPyramid(Ids):
    """Ids (N, L), scale after scale, of the plan `scale_pyramid(sides)`; sides are (h, w) pairs."""

    def __init__(
        self,
        quantiser: Vectors,
        sides: Sequence[tuple[int, int]],
        entries: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.quantiser, self.sides = quantiser, list(sides)
        self.starts = [0, *itertools.accumulate(h * w for h, w in self.sides)]
        super().__init__(entries, self.starts[-1], conditions=0, device=device)
        self._drawn = [False] * len(self.sides)

    def known(self, k: int) -> bool:
        """Whether scale k is drawn or given."""
        return self._drawn[k] or all(self._all_given[self.starts[k] : self.starts[k + 1]])

    def maps(self, k: int) -> Tensor:
        """Vectors of scale k as a map (N, C, h_k, w_k)."""
        vectors = self.quantiser.embed(self.ids[:, self.starts[k] : self.starts[k + 1]])
        return vectors.transpose(1, 2).unflatten(-1, self.sides[k])

    def picture(self) -> Tensor:
        """The map (N, C, h, w) of the last scale up to which everything is known; zeros where nothing is."""
        unknown = next((k for k in range(len(self.sides)) if not self.known(k)), len(self.sides))
        first = (len(self.ids), self.quantiser.channels, *self.sides[0])
        return self.maps(unknown - 1) if unknown else torch.zeros(first, device=self.ids.device)

    def input(self, step: Step) -> Tensor:
        """(N, n, C): zeros for the first scale, for the others the map before, resized bicubically."""
        parts = []
        for single in step.steps:
            k = bisect.bisect_right(self.starts, int(single.draw[0])) - 1
            if k == 0:
                parts.append(torch.zeros(len(self.ids), single.rows, self.quantiser.channels, device=self.ids.device))
                continue
            if not self.known(k - 1):
                raise NextsetError(
                    f"scale {k} was asked for while scale {k - 1} is neither drawn nor given; run the steps in order"
                )
            resized = F.interpolate(self.maps(k - 1), size=self.sides[k], mode="bicubic", align_corners=False)
            parts.append(resized.flatten(2).transpose(1, 2))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given; scales behind it must be drawn again."""
        super().write(step, drawn)
        for single in step.steps:
            k = bisect.bisect_right(self.starts, int(single.draw[0])) - 1
            self._drawn[k:] = [True] + [False] * (len(self.sides) - k - 1)
