"""MVAR: Markov assumptions on scales and space (arXiv 2505.12742).

A scale sees its own positions and nothing before: the past enters through the input, the sum of the scales so far. So
nothing is kept between steps, and scales can be trained apart. From scale `refine_step` on a position sees a window of
kernel_size x kernel_size cells. Weights have VAR's shapes.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

from torch import Tensor

from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.protocols import Job
from nextset.core.rules import Neighbourhood
from nextset.systems.var import Var, VarConfig
from nextset.systems.var.orders import Scales


@dataclasses.dataclass(frozen=True)
class MVarConfig(VarConfig):
    """kernel_size: odd, of the window. refine_step: first scale that sees through it. train_ratio: of the training steps
    in a cycle, how many see the scales before `refine_step`, packed; the others see one of the later scales each.
    train_mask: "own", or "block_causal": the packed scales see those before them in training, as the authors' fine-tuning
    from VAR's weights has it by accident (sheet `mvar`, Paper vs code)."""

    kernel_size: int = 7
    refine_step: int = 8
    train_ratio: int = 8
    train_mask: str = "own"

    def check(self) -> None:
        super().check()
        whole = not (self.raster or self.progressive or self.corruption)
        self.require("raster", whole, "false, with progressive and corruption 0: scales are trained apart")
        tail = len(self.sides) - self.refine_step
        self.require("refine_step", 1 <= self.refine_step <= len(self.sides), f"between 1 and {len(self.sides)}")
        self.require("kernel_size", self.kernel_size >= 1 and self.kernel_size % 2 == 1, "odd and positive")
        smallest = min(self.sides[self.refine_step :], default=self.kernel_size)
        self.require("kernel_size", self.kernel_size <= smallest, f"at most {smallest}, the first local side")
        ok = self.train_ratio == 1 or self.train_ratio >= max(tail, 1)
        self.require("train_ratio", ok, f"1, or at least the {tail} local scales, or some are never trained")
        self.require("train_mask", self.train_mask in ("own", "block_causal"), "'own' or 'block_causal'")


class Markov(Scales):
    """VAR's order, of which nothing stays."""

    def __init__(self, config: MVarConfig) -> None:
        super().__init__(config.sides)
        self.config = config

    @cached_property
    def plan(self) -> Plan:
        return scale_pyramid(
            self.sides, keep=False, sees=Neighbourhood(self.config.kernel_size, self.config.refine_step)
        )

    @cached_property
    def causal(self) -> Plan:
        """VAR's own plan, for `train_mask`."""
        return scale_pyramid(self.sides)


class MVar(Var):
    """VAR's weights under Markov's plan."""

    slug = "mvar"
    config_type = MVarConfig
    config: MVarConfig

    def make_order(self) -> Markov:
        return Markov(self.config)

    @property
    def plan(self) -> Plan:
        packed = self.training and self.config.train_mask == "block_causal"
        return self.order.causal if packed else self.order.plan  # type: ignore[union-attr]

    def job(
        self, classes: Tensor, *, guidance_scale: float = 2.7, top_k: int = 1200, top_p: float = 0.99, **more: Any
    ) -> Job:
        """As VAR's, but `guidance_scale` 1 switches guidance off, as 0 does (sheet `mvar`, Sampling)."""
        extra = 0.0 if guidance_scale == 1 else guidance_scale
        return super().job(classes, guidance_scale=extra, top_k=top_k, top_p=top_p, **more)

    def part(self, step: int, total: int) -> tuple[int, int, float]:
        """The packed scales in `train_ratio` of a cycle's steps, then each local scale alone."""
        c, scales = self.config, len(self.config.sides)
        tail = scales - c.refine_step
        if not tail:
            return 0, scales - 1, 1.0
        at = step % (c.train_ratio + tail)
        if at < c.train_ratio:
            return 0, c.refine_step - 1, 1.0
        alone = c.refine_step + (at - c.train_ratio)
        return alone, alone, 1.0
