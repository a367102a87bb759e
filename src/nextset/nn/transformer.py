"""Transformer parts: attention through `ctx.attend`, attention to a condition, feed-forward, adaptive layer norm, drop path.

Layers know neither caches nor masks nor branches: they hand q, k, v to the context. A condition has no slots and nothing
is remembered of it but itself, so attention to it needs no context. Modulation vectors depend on the
condition alone, so a system computes them once a request (`prepare`) and hands them to every block.

Shapes: x (rows, n, C); modulation (rows, 1, C) each.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.attention import attention
from nextset.nn.rope import rotate


class Modulation(NamedTuple):
    """Six vectors of an adaptive block, (rows, 1, C) each; scales have 1 already added."""

    gate_attn: Tensor
    gate_ffn: Tensor
    scale_attn: Tensor
    scale_ffn: Tensor
    shift_attn: Tensor
    shift_ffn: Tensor

    @classmethod
    def of(cls, six: Tensor) -> Modulation:
        """From (rows, 6, C) in the order gates, scales, shifts (attention before feed-forward)."""
        g1, g2, s1, s2, b1, b2 = six.unsqueeze(2).unbind(1)
        return cls(g1, g2, s1 + 1, s2 + 1, b1, b2)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, times scale (which contains the 1), plus shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), scale)


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-12) over the last axis, in fewer passes (and a far cheaper backward) than `F.normalize`."""
    return x * (x.square().sum(-1, keepdim=True, dtype=torch.float32) + 1e-24).rsqrt().to(x.dtype)


class Projection(nn.Linear):
    """A linear map whose bias is handed in with each call, so that a part of it may be fixed to zero."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        return F.linear(x, self.weight, bias)


class SelfAttention(nn.Module):
    """Multi-head attention with biases on q and v only.

    l2_norm: q and k are normalised to length 1 and q is scaled by exp(min(scale, log 100)), one learned scale a head
    (cosine attention); otherwise the softmax scale is 0.25 / sqrt(head width) (sheet `var`, Model).
    """

    def __init__(self, width: int, heads: int, l2_norm: bool) -> None:
        super().__init__()
        self.heads, self.l2_norm = heads, l2_norm
        self.qkv = Projection(width, 3 * width)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0))) if l2_norm else None

    def forward(self, x: Tensor, ctx: Any, site: str, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x (rows, n, C) -> the same. turn: (cos, sin) of the rotary embedding, each (n, d / 2), or None."""
        rows, n, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = self.qkv(x, bias).view(rows, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = 0.25 / math.sqrt(width // self.heads)
        if self.scale is not None:
            q, k, scale = unit(q) * self.scale.clamp_max(math.log(100)).exp().to(q.dtype), unit(k), 1.0
        if turn is None:
            out = ctx.attend(site, q, k, v, scale=scale)
        else:
            out = ctx.attend(site, rotate(q, turn), rotate(k, turn), v, scale=scale, raw=(q, k))
        return self.proj(out.transpose(1, 2).reshape(rows, n, width))


class CrossAttention(nn.Module):
    """Multi-head attention to a condition of another width, with biases on q and v only; softmax scale 1 / sqrt(d)."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = Projection(condition, 2 * width)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def keys(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Condition (rows, T, condition) -> keys and values (rows, H, T, d), computed once a request."""
        rows, t, _ = condition.shape
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        k, v = self.kv(condition, bias).view(rows, t, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x (rows, n, C); mask (rows, 1, 1, T) bool, True where the condition has something."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.proj(attention(q, *keys, mask).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class DropPath(nn.Module):
    """Drop a residual branch for whole samples with probability `p` while training, and scale the rest up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * keep.to(x.dtype) / (1 - self.p)


class AdaptiveBlock(nn.Module):
    """x + gate * attn(norm(x)), then x + gate * ffn(norm(x)), both norms modulated by the condition.

    The block owns its part of the modulation: a projection of the condition vector, or (shared) an offset (6, C) to a
    projection that all blocks share.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        shared: bool,
        l2_norm: bool,
        drop_path: float,
        eps: float,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.attn = SelfAttention(width, heads, l2_norm)
        self.ffn = FeedForward(width, hidden or round(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.offset = nn.Parameter(torch.randn(1, 6, width) / width**0.5) if shared else None
        self.modulation = None if shared else nn.Linear(width, 6 * width)

    def modulate(self, cond: Tensor, shared: Tensor | None) -> Modulation:
        """cond (rows, C) after SiLU, shared (rows, 6, C) or None -> the block's six vectors."""
        if self.modulation is not None:
            return Modulation.of(self.modulation(cond).unflatten(-1, (6, -1)))
        assert self.offset is not None and shared is not None
        return Modulation.of((self.offset + shared).to(shared.dtype))

    def forward(self, x: Tensor, m: Modulation, ctx: Any, site: str) -> Tensor:
        h = self.attn(modulated_norm(x, m.scale_attn, m.shift_attn, self.eps), ctx, site)
        x = x + self.drop_path(h * m.gate_attn)
        h = self.ffn(modulated_norm(x, m.scale_ffn, m.shift_ffn, self.eps))
        return x + self.drop_path(h * m.gate_ffn)
