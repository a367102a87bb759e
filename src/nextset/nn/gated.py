"""Transformers that are modulated by a condition: RMS norms without weights, gated GELU layers, rotary positions of a
map.

Two systems have the same trunk of them: two stacks in sequence, each with a learned table of places. A condition may be
one for all rows, or one for each (a time of its own, a vector of its position). Layers are handed the turns of their
rows and a function that attends: the context's, or `among` where nothing is stored.
Source: sheet `xar`, Model; sheet `flowar`, Model.

Shapes: x (rows, n, C); modulation (rows, 1 or n, C) each; a turn is (cos, sin), each (n, d / 2) for heads of width d.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.latents import LatentsConfig
from nextset.nn.attention import attention
from nextset.nn.llama import RMSNorm
from nextset.nn.rope import Turn, angles, frequencies, rotate, turns
from nextset.nn.transformer import Modulation

EPS = 1e-6
# of q, k, v (rows, H, n, d) and raw = (q, k) before they were turned, to (rows, H, n, d)
Attend = Callable[..., Tensor]


def among(q: Tensor, k: Tensor, v: Tensor, raw: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Rows attend to each other, all to all: for networks inside a head, which have no memory."""
    return attention(q, k, v)


def modulated_rms(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """RMS norm without weights, in float32, times scale (which contains the 1), plus shift."""
    return torch.addcmul(shift, F.rms_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype), scale)


def hidden_width(width: int, ratio: float) -> int:
    """Of a gated layer with about as many weights as a plain one of that ratio: two thirds, rounded down."""
    return int(width * ratio * 2 / 3)


def ratio_of(width: int, hidden: int) -> float:
    """The ratio of which a hidden width was made, as round as it can be."""
    for parts in (1, 2, 4, 8):
        ratio = math.ceil(hidden * 1.5 / width * parts) / parts
        if hidden_width(width, ratio) == hidden:
            return ratio
    return (hidden + 0.5) * 1.5 / width


def map_turns(coordinates: Tensor, head_width: int) -> Turn:
    """Turns of rows at coordinates (n, 2) = (y, x): the first half of a head's channels turns with y, the second with
    x.

    Adjacent pairs of channels turn together; head_width is a multiple of 4.
    """
    return Turn(turns(angles(coordinates, frequencies(head_width // 4).to(coordinates.device))))


class GatedFeedForward(nn.Module):
    """down(gelu(gate(x)) * up(x)) with biases and the exact GELU; dropout behind the product and behind `down`."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.dropout(F.gelu(self.gate(x)) * self.up(x))))


class TurnedAttention(nn.Module):
    """Multi-head attention with rotary positions; softmax scale 1 / sqrt(d). bias: of q, k and v; the projection has
    one."""

    def __init__(self, width: int, heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Attend, turn: tuple[Tensor, Tensor]) -> Tensor:
        rows, n, _ = x.shape
        q, k, v = self.qkv(x).view(rows, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = attend(rotate(q, turn), rotate(k, turn), v, raw=(q, k))
        return self.dropout(self.proj(out.transpose(1, 2).reshape(rows, n, -1)))


class GatedBlock(nn.Module):
    """x + gate * attn(norm(x)), then x + gate * ffn(norm(x)), both norms modulated.

    hidden: of the feed-forward layer, see `hidden_width`. condition: width of the condition, None = of x. bias: of q,
    k, v.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        condition: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attn = TurnedAttention(width, heads, bias=bias, dropout=dropout)
        self.ffn = GatedFeedForward(width, hidden, dropout)
        self.modulation = nn.Linear(condition or width, 6 * width)

    def modulate(self, cond: Tensor) -> Modulation:
        """cond (rows, 1 or n, C) after SiLU -> six vectors, in the order gates, scales, shifts (attention first)."""
        g1, g2, s1, s2, b1, b2 = self.modulation(cond).chunk(6, -1)
        return Modulation(g1, g2, s1 + 1, s2 + 1, b1, b2)

    def forward(self, x: Tensor, m: Modulation, attend: Attend, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + m.gate_attn * self.attn(modulated_rms(x, m.scale_attn, m.shift_attn), attend, turn)
        return x + m.gate_ffn * self.ffn(modulated_rms(x, m.scale_ffn, m.shift_ffn))


@dataclasses.dataclass(frozen=True)
class StacksConfig(LatentsConfig):
    """Sizes of `Stacks` over latents. width: of both stacks. depth, heads: of the first; decoder_*: of the second, None = the
    same."""

    width: int = 768
    depth: int = 8
    heads: int = 12
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0

    def check(self) -> None:
        super().check()
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        for name, depth, heads in zip(("", "decoder_"), self.depths, self.head_counts, strict=True):
            self.require(f"{name}depth", 1 <= depth <= 128, "between 1 and 128")
            self.require(f"{name}heads", turns_fit(self.width, heads), TURNS_FIT.format(self.width))
        self.require("mlp_ratio", 0.25 <= self.mlp_ratio <= 64, "between 0.25 and 64")

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks of the two stacks."""
        return self.depth, self.depth if self.decoder_depth is None else self.decoder_depth

    @property
    def head_counts(self) -> tuple[int, int]:
        """Heads of the two stacks."""
        return self.heads, self.heads if self.decoder_heads is None else self.decoder_heads


TURNS_FIT = "a divisor of the width {} that leaves heads of a multiple of 4 channels: positions turn pairs of both axes"


def turns_fit(width: int, heads: int) -> bool:
    """Whether so many heads can be turned in two directions."""
    return heads >= 1 and width % (4 * heads) == 0


class Stacks(nn.Module):
    """Two stacks in sequence, named as those of MAR though nothing is hidden from either: all rows go through both.

    places: rows of the learned tables. depth, heads: of (first, second); both have one width, for the condition is
    shared.
    """

    def __init__(
        self,
        places: int,
        width: int,
        depth: Sequence[int],
        heads: Sequence[int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden_width(width, mlp_ratio)
        self.head_widths = [width // h for h in heads]
        self.encoder, self.decoder = (
            nn.ModuleList(GatedBlock(width, h, hidden, dropout=dropout) for _ in range(d))
            for d, h in zip(depth, heads, strict=True)
        )
        self.encoder_position, self.decoder_position = (nn.Parameter(torch.empty(places, width)) for _ in range(2))
        self.input_norm, self.encoder_norm, self.decoder_norm = (RMSNorm(width, EPS) for _ in range(3))
        self.decoder_in = nn.Linear(width, width)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Tables N(0, 0.02), linear maps of Xavier's uniform law with biases of zero; nothing begins at zero."""
        for table in (self.encoder_position, self.decoder_position):
            nn.init.normal_(table, std=0.02)
        self.apply(xavier)

    def forward(
        self, h: Tensor, cond: Tensor, coordinates: Tensor, ctx: Any, *, spread: Tensor | None = None
    ) -> Tensor:
        """Rows (rows, n, C) -> the same, normalised.

        cond: (rows, 1 or n, C) after SiLU, or with `spread` (rows, parts, C): row i of n has the condition spread[i]
        (n,), so that rows of one part share its modulation. coordinates: (n, 2) = (y, x) of the rows. Sites:
        "encoder.i", "decoder.i", and hooks behind each stack.
        """
        slot = ctx.attr("slot")
        made = [map_turns(coordinates, d) for d in self.head_widths]
        block: Any
        h = self.input_norm(h + self.encoder_position[slot].to(h.dtype))
        for name, blocks, turn in zip(("encoder", "decoder"), (self.encoder, self.decoder), made, strict=True):
            for i, block in enumerate(blocks):
                m = block.modulate(cond)
                if spread is not None:
                    m = Modulation(*(t.index_select(1, spread) for t in m))
                h = ctx.hook(f"{name}.{i}", block(h, m, partial(ctx.attend, f"{name}.{i}"), turn))
            if name == "encoder":
                h = ctx.hook("encoder", self.encoder_norm(h))
                h = self.decoder_in(h) + self.decoder_position[slot].to(h.dtype)
        return ctx.hook("decoder", self.decoder_norm(h))


def xavier(module: nn.Module) -> None:
    """Xavier's uniform law for a linear map, and a bias of zero; other modules are left alone."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
