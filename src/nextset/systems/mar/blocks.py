"""The layer of MAR's two stacks: that of a plain vision transformer, with biases everywhere and no modulation.

Source: sheet `mar`, Model. Dropout acts behind the projection, the GELU and the second linear; not on the probabilities
of attention, which belong to the run's policy.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class Block(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)); x (rows, n, C)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(width * mlp_ratio)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, ctx: Any, site: str) -> Tensor:
        rows, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = ctx.attend(site, q, k, v).transpose(1, 2).reshape(rows, n, width)
        x = x + self.dropout(self.proj(out))
        return x + self.dropout(self.down(self.dropout(F.gelu(self.up(self.norm2(x))))))
