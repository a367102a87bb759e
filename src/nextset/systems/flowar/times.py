"""What a number of inner steps means to FlowAR. Source: sheet `flowar`, Sampling."""

from __future__ import annotations

import torch

from nextset.core.errors import check_range
from nextset.nn.flow import Solver

EVEN = 50
LEAST, MOST = 2, 1000


def times(steps: int) -> Solver:
    """Euler's method in `steps` intervals, one less where it is odd (25 gives 24).

    50 are even. Any other number has half of its points from 1 to 0.3 and half from 0.25 to 0. The times are float64: a
    float32 grid would tell the network other times.
    """
    check_range("inner_steps", steps, LEAST, MOST, remedy="the flow needs two intervals at least")
    if steps == EVEN:
        return Solver(tuple(_line(1, 0, EVEN + 1)))
    return Solver((*_line(1, 0.3, steps // 2), *_line(0.25, 0, steps // 2 + 1)))


def _line(first: float, last: float, points: int) -> list[float]:
    return torch.linspace(first, last, points, dtype=torch.float64, device="cpu").tolist()
