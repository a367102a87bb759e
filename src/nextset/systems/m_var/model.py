"""M-VAR: decoupled scales (arXiv 2411.10433).

Each block has three residual branches: attention inside the scale, a Mamba-2 over the whole sequence from coarse to fine,
and the feed-forward. Between scales go states of a fixed size, and no keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.rules import same_scale
from nextset.nn.mamba import Mamba2
from nextset.nn.transformer import DropPath, FeedForward, SelfAttention, modulated_norm
from nextset.systems.var import Var, VarConfig
from nextset.systems.var.orders import Scales


@dataclasses.dataclass(frozen=True)
class MambaVarConfig(VarConfig):
    """state, head_width: of the Mamba (N and P)."""

    state: int = 64
    head_width: int = 64

    def check(self) -> None:
        super().check()
        self.require(
            "shared_adaln", not self.shared_adaln, "false: blocks have nine vectors, the shared projection six"
        )
        self.require("raster", not self.raster, "false: there are no scales to decouple")
        self.require("state", 1 <= self.state <= 1024, "between 1 and 1024")
        inner = 2 * self.width
        self.require("head_width", self.head_width >= 1 and inner % self.head_width == 0, f"a divisor of {inner}")


class Nine(NamedTuple):
    """(rows, 1, C) each, of attention, Mamba and feed-forward; scales have 1 already added."""

    gates: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


class MambaBlock(nn.Module):
    """x + gate * branch(norm(x)) for attention, Mamba and feed-forward in turn, all modulated by the condition."""

    offset = None  # no projection is shared between blocks

    def __init__(self, config: MambaVarConfig, drop_path: float) -> None:
        super().__init__()
        c = config
        self.eps = c.eps
        self.attn = SelfAttention(c.width, c.heads, c.l2_norm)
        self.mamba = Mamba2(c.width, state=c.state, head_width=c.head_width)
        self.ffn = FeedForward(c.width, round(c.width * c.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.modulation = nn.Linear(c.width, 9 * c.width)

    def modulate(self, cond: Tensor, shared: None) -> Nine:
        """cond (rows, C) after SiLU -> the block's nine vectors."""
        nine = self.modulation(cond).unflatten(-1, (9, 1, -1)).unbind(1)
        return Nine(tuple(nine[:3]), tuple(s + 1 for s in nine[3:6]), tuple(nine[6:]))

    def forward(self, x: Tensor, m: Nine, ctx: Any, site: str) -> Tensor:
        def mix(h: Tensor) -> Tensor:
            out, state = self.mamba(h, ctx.state(site))
            ctx.keep(site, state)
            return out

        def attend(h: Tensor) -> Tensor:
            return self.attn(h, ctx, site)

        branches: tuple[Callable[[Tensor], Tensor], ...] = (attend, mix, self.ffn)
        for branch, gate, scale, shift in zip(branches, m.gates, m.scales, m.shifts, strict=True):
            x = x + self.drop_path(branch(modulated_norm(x, scale, shift, self.eps)) * gate)
        return x


class Decoupled(Scales):
    """VAR's order; attention sees the own scale alone."""

    @cached_property
    def plan(self) -> Plan:
        return scale_pyramid(self.sides, sees=same_scale)


class MambaVar(Var):
    """VAR's embeddings and head around blocks with a Mamba."""

    slug = "m_var"
    config_type = MambaVarConfig
    memory = "state"
    config: MambaVarConfig

    def make_order(self) -> Decoupled:
        return Decoupled(self.config.sides)

    def make_block(self, drop_path: float) -> MambaBlock:
        return MambaBlock(self.config, drop_path)

    @torch.no_grad()
    def initialise(self) -> None:
        """As VAR's; the convolution narrow and without bias, as the authors' trainer leaves it (sheet `m_var`, Model)."""
        super().initialise()
        for block in self.blocks:
            nn.init.trunc_normal_(block.mamba.conv1d.weight, std=0.02)  # type: ignore[union-attr,arg-type]
            nn.init.zeros_(block.mamba.conv1d.bias)  # type: ignore[union-attr,arg-type]
