"""Inner steps of a head that grow fewer over a generation: what is drawn late is known well from what came before.

An option of every head with inner steps, because it asks the law and not the system (`heads/implicit.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nextset.core.errors import NextsetError, check_range
from nextset.core.protocols import Dist
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.heads.implicit import Implicit

if TYPE_CHECKING:
    from nextset.engine.run import Run

HeadSteps = str | tuple[int, int]


class AnnealedHead(Controller):
    """The head's inner steps at the first and at the last step of a plan, and along the line between them at the others.

    strided: inner steps lie at a fixed stride, which heads of a diffusion know (`heads/implicit.py`).
    """

    def __init__(self, first: int, last: int, strided: bool = False) -> None:
        self.first, self.last, self.strided = first, last, strided

    @classmethod
    def of(cls, steps: HeadSteps, low: int, high: int) -> AnnealedHead:
        """Of "50-5", (50, 5), or "ddim50-5" for strides; both numbers must be between low and high, which are the head's."""
        found = re.fullmatch(r"\s*(ddim)?\s*(\d+)\s*-\s*(\d+)\s*", steps) if isinstance(steps, str) else None
        ends: Sequence[int] = [int(n) for n in found.groups()[1:]] if found else steps  # type: ignore[assignment]
        if not isinstance(ends, (list, tuple)) or len(ends) != 2 or not all(isinstance(n, int) for n in ends):
            raise NextsetError(
                f"head_steps is {steps!r}, but must be two numbers first-last, such as 50-5; leave it out for as many at every step"
            )
        for n in ends:
            check_range("head_steps", n, low, high, remedy="both numbers are inner steps of the head")
        return cls(ends[0], ends[1], strided=bool(found and found[1]))

    def count(self, done: int, steps: int) -> int:
        """Inner steps after `done` of `steps` steps; halves are rounded to the even number."""
        return round(self.first + (self.last - self.first) * done / max(steps - 1, 1))

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        if not isinstance(dist, Implicit):
            raise NextsetError(
                f"head_steps cannot be given to a law of kind {getattr(dist, 'kind', '?')!r}; leave it out"
            )
        return dist.inner(self.count(step.index, len(run.job.plan)), self.strided)
