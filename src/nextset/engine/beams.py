"""Beams: the likeliest sequences of choices, several an image, kept while a run goes on; and what a drawn one is worth.

For plans that make one choice a step, by a law over ids. They know nothing of what is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError, check_range
from nextset.core.protocols import Dist
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.engine.run import Run


class Scored(Controller):
    """Lets each draw carry its log probability under the filtered law, so that a canvas may keep it."""

    def __init__(self) -> None:
        self._law: Dist | None = None

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        self._law = dist
        return dist

    def on_draw(self, run: Run, step: Step, drawn: Drawn) -> Drawn:
        assert self._law is not None
        return Drawn(drawn.value, self._law.logp(drawn.value), drawn.mix, drawn.h, drawn.trace)


class Beams(Controller):
    """Instead of what was drawn, each image goes on with its `width` likeliest sequences of choices.

    A job begins with one entry an image; from the first step on an image has up to `width` of them, side by side, the
    likeliest first. Width 1 is the greedy choice. Score: sum of log p under the filtered law, of which each draw carries
    its part; given choices count nothing. Equal scores go to the earlier sequence, then to the lower id. An image with
    fewer possible sequences than `width` fills up with ones of log p = -inf.
    """

    def __init__(self, width: int) -> None:
        check_range("beams", width, 1, 1024, remedy="1 is the greedy choice")
        self.width = width
        self._images = 0
        self._score: Tensor | None = None
        self._law: Dist | None = None

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        self._law = dist
        return dist

    def on_draw(self, run: Run, step: Step, drawn: Drawn) -> Drawn:
        logits = getattr(self._law, "logits", None)
        if logits is None or logits.dim() != 3:
            kind = getattr(self._law, "kind", type(self._law).__name__)
            raise NextsetError(
                f"beams choose among ids, but this law is {kind!r} and has none of its own; leave out beams"
            )
        (n, m, v), now = logits.shape, run.job.canvas.now(step)
        if now is None:
            given, known = drawn.value, torch.zeros_like(drawn.value, dtype=torch.bool)
        else:
            given, known = now
        if m > 1 and not bool(known[:, :-1].all()):
            raise NextsetError(f"beams decide one choice a step, but step {step.index} draws {m}; leave out beams")
        if self._score is None or self.width == 1:  # a single sequence needs no history
            self._score, self._images = logits.new_zeros(n), n
        if len(self._score) != n:
            raise NextsetError(
                f"there are {n} entries, but beams of {len(self._score)}; select none of a run with beams"
            )
        each = logits[:, -1].log_softmax(-1)
        ids = torch.arange(v, device=each.device)
        only = torch.where(ids == given[:, -1:], 0.0, -torch.inf)
        each = torch.where(known[:, -1:], only, each)
        total = (self._score[:, None] + each).view(self._images, -1)
        best = total.sort(dim=-1, descending=True, stable=True).indices[:, : self.width]
        first = torch.arange(self._images, device=best.device)[:, None] * (n // self._images)
        rows, value = (first + best // v).flatten(), (best % v).flatten()
        self._score = total.gather(1, best).flatten()
        part = each[rows, value]
        if not torch.equal(rows, torch.arange(n, device=rows.device)):
            run.select(rows)
        before = given[rows, :-1]
        return Drawn(
            torch.cat([before, value[:, None]], 1), torch.cat([torch.zeros_like(before).to(part), part[:, None]], 1)
        )
