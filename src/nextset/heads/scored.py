"""A categorical law whose draws say how likely they were, and may be drawn again at the same positions.

What is done with the likelihood (search, refinement) is not its affair.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.protocols import Filter, NoiseSource
from nextset.heads.categorical import Categorical


class Scored(Categorical):
    """The law with `Drawn.logp`, under the filtered law.

    redraw: how often these positions were drawn before in this run; it moves the attempt that noise is addressed by, so
    that every draw of a position has numbers of its own.
    """

    def __init__(self, law: Categorical, redraw: int = 0) -> None:
        super().__init__(law.logits, law.raw, law.soft)
        self.redraw = redraw

    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        drawn = super().draw(noise, images, positions, attempt + self.redraw)
        drawn.logp = self.logp(drawn.value)
        return drawn


def scored(redraw: int = 0) -> Filter:
    """As the last filter of a chain: filters behind it would make a plain law of it again."""

    def apply(dist: Any) -> Scored:
        return Scored(dist, redraw)

    return apply
