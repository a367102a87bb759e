"""Controllers: the five points at which something outside a system may act on a run.

Structure edits, watermarks, search, feature caches and speculation are controllers. A run without controllers pays
nothing for them; a controller may wait for the host, the loop itself never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.protocols import Dist
from nextset.core.steps import Step

if TYPE_CHECKING:
    from nextset.engine.run import Run


class Controller:
    """Base: every point passes on what it is given."""

    def next(self, run: Run, step: Step | None) -> Step | None:
        """The step (or join) that runs now; None ends the run."""
        return step

    def on_site(self, run: Run, site: str, h: Tensor) -> Tensor:
        """A hidden state inside the trunk."""
        return h

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        """The law, after guidance and filters."""
        return dist

    def on_draw(self, run: Run, step: Step, drawn: Drawn) -> Drawn:
        """What was drawn, before the canvas keeps it."""
        return drawn

    def after(self, run: Run, step: Step, drawn: Drawn | None) -> None:
        """The step is over: canvas, memory and cursor moved on."""


class Record(Controller):
    """Keeps the laws' logits and the drawn values of every step, for parity cases and studies."""

    def __init__(self) -> None:
        self.drawn: list[Drawn] = []
        self.dists: list[Dist] = []

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        self.dists.append(dist)
        return dist

    def on_draw(self, run: Run, step: Step, drawn: Drawn) -> Drawn:
        self.drawn.append(drawn)
        return drawn
