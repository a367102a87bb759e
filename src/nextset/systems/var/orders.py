"""In which order VAR's transformer predicts, and what that order decides: plan, canvas, weights of guidance.

`Scales` is VAR. `Raster` is what VAR is compared with: the same trunk predicts the tokens of one map one after another
(sheet `var`, Miniature claim).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextset.core.canvases import Ids, ResidualPyramid
from nextset.core.masks import pyramid_mask
from nextset.core.plan import Plan
from nextset.core.plans import raster, scale_pyramid
from nextset.core.steps import Step
from nextset.engine.guidance import Weights, constant, ramp
from nextset.tokenizers.multiscale import MultiScaleVQ


class Scales:
    """One step a scale. The input of a scale is the sum of those before it, shrunk to its side."""

    def __init__(self, sides: Sequence[int]) -> None:
        self.sides = [(s, s) for s in sides]
        # slots that are made of the class alone, and the number of level embeddings
        self.first, self.levels = sides[0] ** 2, len(sides)

    @cached_property
    def plan(self) -> Plan:
        return scale_pyramid(self.sides)

    def canvas(self, tokenizer: MultiScaleVQ, entries: int) -> ResidualPyramid:
        device = tokenizer.quantiser.codebook.weight.device
        return ResidualPyramid(tokenizer.quantiser, self.sides, entries, device=device)

    def features(self, tokenizer: MultiScaleVQ, canvas: Any) -> Tensor:
        """The feature map (N, D, h, w) that the decoder gets of what is known so far."""
        return canvas.total()

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Scales of up to 3 cells stay whole (sheet, Sampling, zero-shot editing)."""
        return pyramid_mask(mask, self.sides, always=3)

    def weights(self, guidance_scale: float) -> Weights:
        return ramp(guidance_scale, len(self.plan))


class Raster:
    """One step a token of a single map. The input of a slot is the code before it; slot 0 is made of the class."""

    def __init__(self, sides: Sequence[int]) -> None:
        (side,) = sides
        self.sides = [(side, side)]
        self.first, self.levels = 1, 2

    @cached_property
    def plan(self) -> Plan:
        side = self.sides[0][0]
        plan = raster(1, side * side, width=side)
        return dataclasses.replace(plan, slots={**plan.slots, "scale": plan.slots["segment"]})

    def canvas(self, tokenizer: MultiScaleVQ, entries: int) -> CodesBefore:
        return CodesBefore(tokenizer, entries, len(self.plan))

    def features(self, tokenizer: MultiScaleVQ, canvas: Any) -> Tensor:
        return tokenizer.f_hat(canvas.codes(), sides=self.sides)

    def keep_mask(self, mask: Tensor) -> Tensor:
        return pyramid_mask(mask, self.sides)

    def weights(self, guidance_scale: float) -> Weights:
        return constant(1 + guidance_scale)


class CodesBefore(Ids):
    """Ids whose input are the code vectors (N, n, D)."""

    def __init__(self, tokenizer: MultiScaleVQ, entries: int, length: int) -> None:
        super().__init__(entries, length, device=tokenizer.quantiser.codebook.weight.device)
        self.quantiser = tokenizer.quantiser

    def input(self, step: Step) -> Tensor:
        vectors = self.quantiser.embed(super().input(step))
        return torch.where((step.feed > 0).to(vectors.device)[:, None], vectors, 0.0)
