"""The plain pre-norm block of vision transformers: full attention and an MLP, behind a LayerNorm each.

It is for encoders and decoders, which see all of their tokens at once and keep nothing: it knows neither slots nor a
memory. A generator's blocks attend through `ctx` (`transformer`, `llama`). Names follow timm's, so that released files
need no renaming. Source: Dosovitskiy et al. 2020 (arXiv 2010.11929), section 3.1.

Shapes: x (B, n, C).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.attention import attention


class Attention(nn.Module):
    """Every token attends to every token; softmax scale 1 / sqrt(C / heads). qkv_bias: whether q, k, v have biases."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (exact), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ViTBlock(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)). mlp_ratio: hidden width of the MLP over the width."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float = 4.0, qkv_bias: bool = False, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, round(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
