"""How well photos are located: shares within a distance, the median error, seconds, with intervals; apart for photos whose
landmarks a fixed crop cannot know. Whoever locates, zooming or by retrieval, is measured here.

Source: sheet `just_zoom_in`, Synthetic benchmark (Metrics). Intervals are of 95 %: Wilson's for shares, order statistics for
the median.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.judges.calibration import Reliability, reliability
from nextset.judges.shares import wilson

WITHIN = (40.0, 50.0, 100.0)  # metres
OF_LANDMARKS = {0: "shows no landmark", 1: "landmark in the crop", 2: "landmarks outside the crop"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """metres (n,): error of the likeliest cell's centre; exact (n,): whether it is the right cell; confidence (n,)."""

    metres: Tensor
    exact: Tensor
    confidence: Tensor


@dataclasses.dataclass(frozen=True)
class Errors:
    """Of n photos. recall: {metres: (share, low, high)}, the limit counts. median: (metres, low, high). exact: share in the
    right cell."""

    n: int
    recall: dict[float, tuple[float, float, float]]
    median: tuple[float, float, float]
    mean: float
    exact: float

    @classmethod
    def of(cls, metres: Tensor, exact: Tensor, within: Sequence[float] = WITHIN) -> Errors:
        """Of errors in metres (N,), and whether the cell was right (N,)."""
        if not len(metres):
            raise NextsetError("there is no photo to judge by; give at least one with a position")
        n, values = len(metres), np.sort(metres.double().numpy())
        recall = {}
        for limit in within:
            hit = float((values <= limit).mean())
            recall[float(limit)] = (hit, *wilson(hit, n))
        low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)) - 1)  # order statistics around the middle
        high = min(n - 1, math.ceil(n / 2 + 0.98 * math.sqrt(n)))
        median = float(np.median(values)), float(values[low]), float(values[high])
        return cls(n, recall, median, float(values.mean()), float(exact.double().mean()))


@dataclasses.dataclass(frozen=True)
class Score:
    """Errors of all photos, and of those of each kind of landmark, by crop; how true confidences are.

    first_seconds: of the first part, with whatever is prepared for a map (a gallery); seconds: a photo of the parts after it,
    of the first where there is no other.
    """

    all: Errors
    by_landmark: dict[str, Errors]
    first_seconds: float
    seconds: float
    calibration: Reliability

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that JSON can hold."""
        return dataclasses.asdict(self)

    def row(self) -> dict[str, float]:
        """The figures that a table shows."""
        shares = {f"within {limit:g} m": value[0] for limit, value in self.all.recall.items()}
        return {**shares, "median": self.all.median[0], "exact": self.all.exact, "ece": self.calibration.ece}


def evaluate(
    ask: Callable[[Tensor], Answer], parts: Sequence[Tensor], landmarks: Mapping[int, np.ndarray] | None = None
) -> Score:
    """Ask about photos, part by part (indices (n,) each), and score the answers.

    landmarks: {crop in metres: (N,)} as `data.places.Places` has them. The clock runs while answers are made.
    """
    answers, seconds = [], []
    for rows in parts:
        begun = time.perf_counter()
        answers.append(ask(rows))
        seconds.append(time.perf_counter() - begun)
    if not answers:
        raise NextsetError("there is no photo to judge by; give at least one with a position")
    order = torch.cat(list(parts))
    metres, exact, confidence = (torch.cat([getattr(a, n) for a in answers]) for n in ("metres", "exact", "confidence"))
    groups = {}
    for crop, marks in (landmarks or {}).items():
        of = torch.from_numpy(np.asarray(marks))[order]
        for value, name in OF_LANDMARKS.items():
            some = of == value
            if bool(some.any()):
                groups[f"{name}, {crop} m"] = Errors.of(metres[some], exact[some])
    later = (sum(seconds[1:]), len(order) - len(parts[0])) if len(parts) > 1 else (seconds[0], len(order))
    return Score(Errors.of(metres, exact), groups, seconds[0], later[0] / later[1], reliability(confidence, exact))
