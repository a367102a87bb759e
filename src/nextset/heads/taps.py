"""A law from several taps of a trunk: each tap has a softmax head of its own, and what they say of a position is merged.

A plan's `read` says from which row each tap predicts a position, and -1 where it says nothing (a position at the edge has
fewer neighbours). Logits are merged before guidance and filters. Source: arXiv 2503.10696, section 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nextset.core.steps import Step
from nextset.heads.categorical import Categorical, Softmax


@dataclasses.dataclass(frozen=True)
class MeanOfTaps:
    """The mean logits of the taps that there are, one head a tap: any number of taps, any of them missing at a position."""

    heads: Sequence[Softmax]

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any = None) -> Categorical:
        """h: a tap (rows, m, C) each -> the law of the m positions. What a missing tap holds does not matter."""
        there = step.read >= 0
        if not bool(there.any(1).all()):
            raise ValueError(f"step {step.index} reads a position from no tap")
        logits = [head.logits(tap) for head, tap in zip(self.heads, h, strict=True)]
        if not bool(there.all()):
            each = there.to(logits[0].device)[..., None].unbind(1)
            logits = [one.masked_fill(~known, 0.0) for one, known in zip(logits, each, strict=True)]
        total = logits[0]
        for one in logits[1:]:
            total = total + one
        return Categorical(total / there.sum(1, keepdim=True).to(total))
