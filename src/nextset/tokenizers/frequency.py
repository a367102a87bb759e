"""The multi-scale tokenizer whose scales aim at frequency bands: each explains the map up to a cutoff, not the whole map.

Everything but the targets is `multiscale`; with the bands off, this is `multiscale`, bit by bit. Source: the definition
of sheet `nfig` (arXiv 2503.07076 gives the idea; there is no code to follow).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nextset.nn.frequency import low_pass
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig


@dataclasses.dataclass(frozen=True)
class FrequencyVQConfig(MultiScaleVQConfig):
    """bands: how the height of a frequency is measured, or "off". cutoffs: of each scale, in (0, 1], rising to 1; empty =
    the share of each side of the last (a scale of half the side gets half of the frequencies)."""

    bands: Literal["radial", "square", "off"] = "radial"
    cutoffs: tuple[float, ...] = ()

    def check(self) -> None:
        super().check()
        c = self.cutoffs
        self.require("cutoffs", len(c) in (0, len(self.sides)), f"one for each of {len(self.sides)} sides, or none")
        rising = all(0 < a <= b for a, b in itertools.pairwise(c)) and (not c or (c[-1] == 1 and c[0] > 0))
        self.require("cutoffs", rising, "rising numbers in (0, 1] that end with 1")


class FrequencyVQ(MultiScaleVQ):
    """After scale k the sum of scales should be the feature map without what lies above cutoff k."""

    config_type = FrequencyVQConfig
    config: FrequencyVQConfig

    def cutoffs(self, sides: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """Of each scale; other sides than the configured ones have the default rule."""
        given = self.config.cutoffs
        if given and tuple(sides) == self.sides:
            return given
        return tuple(max(h / sides[-1][0], w / sides[-1][1]) for h, w in sides)

    def targets(self, f: Tensor, sides: Sequence[tuple[int, int]]) -> Sequence[Tensor] | None:
        if self.config.bands == "off":
            return None
        return [*low_pass(f, self.cutoffs(sides)[:-1], self.config.bands), f]

    @torch.no_grad()
    def bands(self, images: Tensor) -> Tensor:
        """What the decoder makes of the feature map up to each cutoff: (B, 3, H, W) -> (K, B, 3, H, W) in [-1, 1]."""
        f = self.features(images).float()
        targets = self.targets(f, self.sides) or [f] * len(self.sides)
        return torch.stack([self.decode_features(t).float().clamp(-1, 1) for t in targets])
