"""Rules of visibility that more than one plan uses: `sees(q, k)` over attributes of query and key rows."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.steps import Step
from nextset.core.views import Attributes


def same_scale(q: Attributes, k: Attributes) -> Tensor:
    """A row sees its own scale, whatever is kept of others."""
    return q.scale == k.scale


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """On maps from scale `first` on, a row sees a window of kernel x kernel cells around it; all of its map before.

    At borders the window is moved inside, so that it always has kernel^2 cells: it begins at clamp(y - kernel // 2, 0,
    h - kernel). Needs the attributes of a scale pyramid. Source: Hassani et al. 2023 (arXiv 2204.07143).
    """

    kernel: int
    first: int = 0

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise NextsetError(f"the kernel of a neighbourhood is {self.kernel}, but must be odd and positive")

    def __call__(self, q: Attributes, k: Attributes) -> Tensor:
        near = q.scale == k.scale
        for at, other, side in ((q.y, k.y, q.h), (q.x, k.x, q.w)):
            start = (at - self.kernel // 2).clamp_min(0).minimum((side - self.kernel).clamp_min(0))
            near = near & (other >= start) & (other < start + self.kernel)
        return near | (q.scale < self.first)

    def window(self, step: Step) -> int | None:
        """The kernel, when the rows of this forward are one map that sees itself through it, so that attention need not
        look at the rest; else None."""
        local = len(step.steps) == 1 and step.shape is not None and step.index >= self.first
        return self.kernel if local and min(step.shape[1:]) > self.kernel else None  # type: ignore[index]
