"""Events of a run. They hold tensors that are read late; whoever listens decides when the host waits."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class StepDone:
    """A forward is over: index of its last step, steps of the plan, and what was drawn (None when nothing was)."""

    index: int
    steps: int
    drawn: Any | None


@dataclasses.dataclass(frozen=True)
class Preview:
    """The canvas after step `index`, decoded: images (N, 3, H, W) in [-1, 1]."""

    index: int
    images: Tensor


@dataclasses.dataclass(frozen=True)
class Done:
    """The run is over: the canvas' codes."""

    codes: Any


Event = StepDone | Preview | Done
