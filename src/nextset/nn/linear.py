"""A linear map that is fast for a few rows: a step of one token reads every weight for hardly any arithmetic, and on a CPU the
library's product of a few rows with a large matrix reads it at a third of the memory's speed, turned around at all of it.

Measured on a Zen 4 core in float32, a product of 2 rows with (16384, 768): 8.3 ms, turned around 2.8 ms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 1 << 19  # weights from which memory decides, and not the call


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`: x (..., K), weight (N, K) -> (..., N)."""
    if weight.numel() < LARGE or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    rows = x.shape[:-1].numel()
    if not _turned(x, weight, rows):
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1)
    if rows == 1:  # one row is slower than two
        flat = flat.expand(2, -1)
    out = (weight @ flat.t()).t()[:rows].contiguous().view(*x.shape[:-1], -1)
    return out if bias is None else out + bias


def _turned(x: Tensor, weight: Tensor, rows: int) -> bool:
    n, k = weight.shape
    few = 1 <= rows <= 3 or (rows == 4 and n >= k)
    return (
        few
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


class Linear(nn.Linear):
    """`nn.Linear`, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
