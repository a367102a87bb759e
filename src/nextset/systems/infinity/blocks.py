"""Infinity's layers: an adaptive block with attention to the text in its middle, and what the text becomes before.

Shapes: rows R, fed slots n, width C; text (R, T, Ct) with a mask (R, T) of what is text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.attention import attention
from nextset.nn.transformer import AdaptiveBlock, CrossAttention, Modulation, Projection, modulated_norm


class BlockCondition(NamedTuple):
    """What one block needs of the text: modulation, and keys and values (R, H, T, d) of its attention to the text."""

    modulation: Modulation
    k: Tensor
    v: Tensor


class InfinityBlock(AdaptiveBlock):
    """Self-attention, attention to the text, feed-forward; the first and the last are modulated.

    cross_scale: initial value of a learned factor a channel of what the text adds; None = no factor (all releases).
    """

    def __init__(self, *args: Any, text: int, cross_scale: float | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        width, heads = args[0], args[1]
        self.cross_norm = nn.LayerNorm(width, eps=self.eps)
        self.cross = CrossAttention(width, heads, text)
        self.cross_gamma = None if cross_scale is None else nn.Parameter(torch.full((width,), float(cross_scale)))

    def condition(self, hidden: Tensor, shared: Tensor, text: Tensor) -> BlockCondition:
        """hidden (R, C) after SiLU, shared (R, 6, C), projected text (R, T, C)."""
        return BlockCondition(self.modulate(hidden, shared), *self.cross.keys(text))

    def forward(  # type: ignore[override]
        self, x: Tensor, c: BlockCondition, mask: Tensor, ctx: Any, site: str, turn: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x (R, n, C) -> the same; mask (R, 1, 1, T); turn: rotary tables of the fed slots."""
        m = c.modulation
        h = self.attn(self._weighed(modulated_norm(x, m.scale_attn, m.shift_attn, self.eps)), ctx, site, turn)
        x = x + self.drop_path(h * m.gate_attn)
        h = self.cross(self.cross_norm(self._weighed(x)), (c.k, c.v), mask)
        x = x + (h if self.cross_gamma is None else h * self.cross_gamma)
        h = self.ffn(self._weighed(modulated_norm(x, m.scale_ffn, m.shift_ffn, self.eps)))
        return x + self.drop_path(h * m.gate_ffn)

    def _weighed(self, x: Tensor) -> Tensor:
        """In the dtype of the weights where the stream is float32; under autocast, as in training, it is bfloat16 already."""
        return x.to(self.attn.proj.weight.dtype) if x.dtype == torch.float32 else x


class AttentivePool(nn.Module):
    """One vector of a text: learned queries, one a head, attend to it. There are Ct / 128 heads (Ct / 64 where C > 4096),
    of C / heads channels: the constant is a number of heads and not their width (sheet, trap 10)."""

    def __init__(self, text: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, heads, width // heads))
        self.kv = Projection(text, 2 * width)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Text (R, T, Ct), mask (R, 1, 1, T) -> (R, C)."""
        rows, t, _ = text.shape
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        k, v = self.kv(text, bias).view(rows, t, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = self.query.to(k.dtype)[:, :, None].expand(rows, -1, -1, -1)
        return self.proj(attention(q, k, v, mask).flatten(1))


class TextPath(nn.Module):
    """Features of a text -> (one vector, one vector a token). Stays float32 when a model is cast."""

    keeps_float32 = True

    def __init__(self, text: int, width: int, pool_heads: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(text, eps=eps)
        self.pool = AttentivePool(text, width, pool_heads)
        self.first, self.second = nn.Linear(text, width), nn.Linear(width, width)

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text (R, T, Ct), mask (R, 1, 1, T) -> (R, C), (R, T, C)."""
        text = self.norm(text.float())
        return self.pool(text, mask), self.second(F.gelu(self.first(text), approximate="tanh"))
