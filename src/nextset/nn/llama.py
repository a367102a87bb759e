"""The decoder block of Llama: RMS norm, attention with rotary positions and grouped keys, a gated feed-forward layer, no biases.

Layers know neither caches nor masks nor where a slot lies: they are handed the turns of their rows, and hand q, k, v to the
context. Source: Touvron et al. 2023 (arXiv 2302.13971), section 2.2; grouped keys: Ainslie et al. 2023 (arXiv 2305.13245).

Shapes: x (rows, n, C); a turn is (cos, sin), each (n, d / 2) for heads of width d.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.linear import Linear
from nextset.nn.rope import rotate
from nextset.nn.transformer import DropPath


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) in float32, then times a learned weight in x's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dtype != torch.float32:
            return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight
        # the same in half as many passes: sqrt(mean(x^2) + eps) is a hypotenuse
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
        return (x / length.hypot_(length.new_full((), self.eps**0.5))).mul_(self.weight)


class GroupedAttention(nn.Module):
    """Causal or whatever the plan says; `keys` heads of keys and values serve `heads` of queries, softmax scale 1 / sqrt(d).

    qkv: one map to queries, keys, values, in this order, heads side by side.
    """

    def __init__(self, width: int, heads: int, keys: int, dropout: float) -> None:
        super().__init__()
        self.head_width = width // heads
        self.parts, self.sizes = (heads, keys), (heads + keys, keys)  # queries and keys turn together
        self.qkv = Linear(width, (heads + 2 * keys) * self.head_width, bias=False)
        self.proj = Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, ctx: Any, site: str, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        rows, n, _ = x.shape
        both, v = self.qkv(x).view(rows, n, -1, self.head_width).transpose(1, 2).split_with_sizes(self.sizes, 1)
        q, k = rotate(both, turn).split_with_sizes(self.parts, 1)
        out = ctx.attend(site, q, k, v, raw=both.split_with_sizes(self.parts, 1))
        out = self.proj(out.transpose(1, 2).reshape(x.shape))
        return self.dropout(out) if self.training else out


class GatedFeedForward(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = self.down(F.silu(self.gate(x)) * self.up(x))
        return self.dropout(out) if self.training else out


class LlamaBlock(nn.Module):
    """x + attn(norm(x)), then x + ffn(norm(x)). dropout acts on what both add, drop_path on whole samples."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        keys: int | None = None,
        eps: float = 1e-5,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(width, eps)
        self.attn = GroupedAttention(width, heads, keys or heads, dropout)
        self.ffn_norm = RMSNorm(width, eps)
        self.ffn = GatedFeedForward(width, hidden, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, ctx: Any, site: str, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        if not self.training:
            x = x + self.attn(self.attn_norm(x), ctx, site, turn)
            return x + self.ffn(self.ffn_norm(x))
        x = x + self.drop_path(self.attn(self.attn_norm(x), ctx, site, turn))
        return x + self.drop_path(self.ffn(self.ffn_norm(x)))
