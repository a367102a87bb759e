"""A small transformer over one map of tokens, which predicts the velocity of all of them together.

Each position has a condition of its own, the hidden state that the trunk gave it, and its norms are modulated by it
(spatial adaLN). Attention stays inside the map; coordinates are stretched, so that maps of all sides lie on one square.
Source: arXiv 2412.15205, section 3.3; sheet `flowar`, Model (flow net).

Shapes: R sequences, m = h w tokens of C numbers, hidden states (R, m, D), width W; times in [0, 1], 1 = noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.flow import TimeEmbedding
from nextset.nn.gated import (
    EPS,
    GatedBlock,
    GatedFeedForward,
    TurnedAttention,
    among,
    hidden_width,
    map_turns,
    modulated_rms,
    xavier,
)
from nextset.nn.llama import RMSNorm
from nextset.nn.rope import rotate

Side = tuple[int, int]
Turn = tuple[Tensor, Tensor]
Mix = Literal["attention", "cross"]
MLP_RATIO = 4.0


def stretched(cells: Tensor, sides: Tensor, full: Side) -> Tensor:
    """Cells (n, 2) = (row, column) of maps with sides (n, 2) = (h, w), on the square of a map with sides `full`: (n, 2)."""
    return cells * torch.tensor(full, device=cells.device) / sides


class Known(NamedTuple):
    """What the network makes of hidden states once for all times. place: (R, m, W). across: keys and values of each block
    that looks at them."""

    place: Tensor
    across: tuple[tuple[Tensor, Tensor] | None, ...]


class FlowBlock(Protocol):
    """A block: x (R, m, W), time (1 or R, 1, W), place (R, m, W), what it knows of the hidden states, turns of the map."""

    def __call__(
        self, x: Tensor, time: Tensor, place: Tensor, across: tuple[Tensor, Tensor] | None, turn: Turn
    ) -> Tensor: ...
    def look(self, hidden: Tensor, turn: Turn) -> tuple[Tensor, Tensor] | None: ...


class AttentionBlock(GatedBlock):
    """Attention, then feed-forward, both modulated position by position."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden_width(width, MLP_RATIO), bias=False)

    def look(self, hidden: Tensor, turn: Turn) -> None:
        return None

    def forward(self, x: Tensor, time: Tensor, place: Tensor, across: None, turn: Turn) -> Tensor:  # type: ignore[override]
        return super().forward(x, self.modulate(F.silu(time + place)), among, turn)


class CrossBlock(nn.Module):
    """Attention that is modulated by the time alone, then a look at all hidden states, then feed-forward, modulated position
    by position. hidden: width of the hidden states."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = TurnedAttention(width, heads, bias=False)
        self.query_norm, self.key_norm = RMSNorm(width, EPS), RMSNorm(hidden, EPS)
        self.query, self.keys = nn.Linear(width, width, bias=False), nn.Linear(hidden, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.ffn = GatedFeedForward(width, hidden_width(width, MLP_RATIO))
        self.modulation_attn, self.modulation_ffn = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def look(self, hidden: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Keys, turned, and values of the hidden states: (R, heads, m, d) each."""
        k, v = self.keys(self.key_norm(hidden)).unflatten(-1, (2, self.attn.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(k, turn), v

    def forward(
        self, x: Tensor, time: Tensor, place: Tensor, across: tuple[Tensor, Tensor] | None, turn: Turn
    ) -> Tensor:
        assert across is not None
        gate, scale, shift = self.modulation_attn(F.silu(time)).chunk(3, -1)
        x = x + gate * self.attn(modulated_rms(x, scale + 1, shift.expand_as(x)), among, turn)
        q = self.query(self.query_norm(x)).unflatten(-1, (self.attn.heads, -1)).transpose(1, 2)
        x = x + self.proj(among(rotate(q, turn), *across).transpose(1, 2).flatten(2))
        gate, scale, shift = self.modulation_ffn(F.silu(time + place)).chunk(3, -1)
        return x + gate * self.ffn(modulated_rms(x, scale + 1, shift))


BLOCKS: dict[str, type[AttentionBlock] | type[CrossBlock]] = {"attention": AttentionBlock, "cross": CrossBlock}


class FlowNet(nn.Module):
    """Noisy tokens of a map, a time and hidden states to velocities.

    condition: D. full: sides of the square that coordinates are stretched to. mix: "attention", or "cross" for blocks that
    also look at the hidden states. pooled: one condition for all positions of a map, their mean (for comparison).
    """

    def __init__(
        self,
        condition: int,
        channels: int,
        depth: int,
        width: int,
        heads: int,
        full: Side,
        mix: Mix = "attention",
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.full, self.pooled, self.head_width = channels, full, pooled, width // heads
        self.time = TimeEmbedding(width)
        self.condition = nn.Linear(condition, width)
        self.input = nn.Linear(channels, width)
        self.blocks: Sequence[FlowBlock] = nn.ModuleList(BLOCKS[mix](width, heads, condition) for _ in range(depth))  # type: ignore[assignment]
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, channels)
        self.apply(xavier)  # nothing begins at zero: the authors overwrite what does

    def turn(self, side: Side) -> Turn:
        """Turns of a map's positions in raster order."""
        cell = torch.arange(side[0] * side[1], device=self.output.weight.device)
        sides = torch.tensor(side, device=cell.device)
        return map_turns(
            stretched(torch.stack([cell // side[1], cell % side[1]], -1), sides, self.full), self.head_width
        )

    def know(self, hidden: Tensor, turn: Turn) -> Known:
        """What is the same at every time: hidden (R, m, D)."""
        place = self.condition(hidden.mean(1, keepdim=True).expand_as(hidden) if self.pooled else hidden)
        return Known(place, tuple(block.look(hidden, turn) for block in self.blocks))

    def forward(self, x: Tensor, t: Tensor | float, known: Known, turn: Turn) -> Tensor:
        """x (R, m, C) at times t (R,) or one for all -> velocities (R, m, C)."""
        time = self.time(t).view(-1, 1, self.input.out_features)
        h = self.input(x)
        for block, across in zip(self.blocks, known.across, strict=True):
            h = block(h, time, known.place, across, turn)
        shift, scale = self.modulation(F.silu(time + known.place)).chunk(2, -1)
        return self.output(modulated_rms(h, scale + 1, shift))
