"""A linear map that is fast for a few rows: a step of one token reads every weight for hardly any arithmetic, and on a CPU the
library's product of a few rows with a large matrix may read it at a third of the memory's speed, turned around at all of it.

Where that is so depends on the processor. A product of 2 rows in float32, in ms, as it is and turned around: on a Zen 4 core with
AVX-512 (16384, 768) 8.3 and 2.8, (2304, 768) 0.98 and 0.40; on an AMD core with AVX2 (16384, 768) 9.6 and 6.7, (2304, 768) 0.46
and 0.78; on an Intel core with AVX-512 (2304, 768) 0.68 and 1.36, (4096, 1024) 1.0 and 2.1: the library has kernels of its own
for its maker's processors. Of one row, turning never paid with AVX2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.machine import cpuinfo

LARGE = 1 << 19  # weights from which memory decides, and not the call
BEYOND = 1 << 23  # weights that no cache of a core holds
# asked once: `torch.compile` breaks its graph where it is asked
_CAPABILITY = "" if "GenuineIntel" in cpuinfo() else torch.backends.cpu.get_cpu_capability()


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
    return (
        pays(weight.shape[0], weight.shape[1], rows, _CAPABILITY)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def pays(n: int, k: int, rows: int, capability: str) -> bool:
    """Whether a product of some rows with (n, k) weights is faster turned around. capability: torch's name of the processor's
    instructions; empty where turning never pays."""
    if capability == "AVX512":
        return 1 <= rows <= 3 or (rows == 4 and n >= k)
    return capability == "AVX2" and 2 <= rows <= 4 and n * k >= BEYOND


class Linear(nn.Linear):
    """`nn.Linear`, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
