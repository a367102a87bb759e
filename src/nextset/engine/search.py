"""Search over candidates: several entries an image, thinned while they run."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import check_range
from nextset.core.protocols import Dist
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.engine.run import Run


class KeepLikeliest(Controller):
    """Of `candidates` entries of each image, keep after step `at` the one whose draw there was the likeliest.

    Positions of a step are drawn independently, so that an early step may mix pictures that do not go together; the
    network then finds little likely in the next one. The score is the mean log probability of what was drawn, under the
    guided law before any filter. Entries of an image follow each other. Later steps run for the kept ones alone.
    """

    def __init__(self, candidates: int, at: int) -> None:
        check_range("candidates", candidates, 1, 1024)
        check_range("decide_at", at, 0)
        self.candidates, self.at = candidates, at
        self.kept: Tensor | None = None  # entries that went on, once decided
        self._law: Dist | None = None

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        if step.index == self.at:
            self._law = dist
        return dist

    def after(self, run: Run, step: Step, drawn: Drawn | None) -> None:
        if step.index != self.at or self.candidates == 1 or drawn is None or self._law is None:
            return
        logits: Tensor = self._law.raw  # type: ignore[attr-defined]
        score = logits.log_softmax(-1).gather(-1, drawn.value[..., None]).mean((1, 2)).view(-1, self.candidates)
        rows = torch.arange(score.shape[0], device=score.device) * self.candidates + score.argmax(1)
        self._law, self.kept = None, rows
        run.select(rows)
