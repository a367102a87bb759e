"""A memory policy for plans that keep nothing: steps that are joined do not see each other, so each is attended to alone.

No mask is read and no masked score is computed: the cost of a packed forward is the sum of its steps' squares, not the
square of their sum, and a kernel without a mask never writes scores to memory. It knows no system; where joined steps do
see each other it is the policy "none".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.caches.policies import Nothing
from nextset.core.protocols import Extra
from nextset.nn.attention import attention


class OwnStep(Nothing):
    """Keep nothing; attend step by step where the plan lets rows see their own step alone."""

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: Any,
        *,
        scale: float | None = None,
        raw: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> Tensor:
        if extra is not None or not _apart(ctx):
            return super().attend(site, q, k, v, ctx, scale=scale, raw=raw, extra=extra)
        sizes = [step.rows for step in ctx.step.steps]
        parts = zip(q.split(sizes, -2), k.split(sizes, -2), v.split(sizes, -2), strict=True)
        return torch.cat([attention(a, b, c, None, scale) for a, b, c in parts], -2)


def _apart(ctx: Any) -> bool:
    """Whether this forward joins steps that are blind to each other: nothing is kept, no rule is added, and no branch
    has a rule or padding of its own (else its mask is another object than the plan's)."""
    step, plan = ctx.step, ctx.plan
    blind = len(step.steps) > 1 and plan.sees is None and not step.keeps
    return blind and ctx.mask(stored=False) is plan.view(step, stored=False, device=ctx.device).mask
