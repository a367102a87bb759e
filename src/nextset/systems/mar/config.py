"""Sizes of MAR, and what it is trained with. Source: sheet `mar`, Model and Training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nextset.core.latents import LatentsConfig


@dataclasses.dataclass(frozen=True)
class MarConfig(LatentsConfig):
    """Sizes of the two stacks and the head, and what they are trained with.

    width, depth, heads: of the encoder; decoder_*: of the decoder, None = the same. buffer: rows in front, all made of the class. head_depth,
    head_width: of the head's network. head: "diffusion", or "regression" to compare it with. repeats: noisings of each token
    in a training step. mask: least share, mean and spread of the truncated normal law of the share that is hidden.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0
    buffer: int = 64
    head: Literal["diffusion", "regression"] = "diffusion"
    head_depth: int = 6
    head_width: int = 1024
    repeats: int = 4
    mask: tuple[float, float, float] = (0.7, 1.0, 0.25)

    def check(self) -> None:
        super().check()
        for stack in ("", "decoder_"):
            width, depth, heads = self.stack(stack)
            self.require(f"{stack}width", 8 <= width <= 16384, "between 8 and 16384")
            self.require(f"{stack}depth", 1 <= depth <= 128, "between 1 and 128")
            self.require(f"{stack}heads", heads >= 1 and width % heads == 0, f"a divisor of the width {width}")
        self.require("buffer", 1 <= self.buffer <= 4096, "between 1 and 4096")
        self.require("head_depth", 1 <= self.head_depth <= 64, "between 1 and 64")
        self.require("head_width", 8 <= self.head_width <= 16384, "between 8 and 16384")
        self.require("repeats", 1 <= self.repeats <= 64, "between 1 and 64")
        low, _, spread = self.mask
        self.require("mask", 0 < low < 1 and spread > 0, "(least share in (0, 1), mean, spread > 0)")

    def stack(self, name: str) -> tuple[int, int, int]:
        """(width, depth, heads) of the encoder ("") or the decoder ("decoder_")."""
        own = [getattr(self, name + field) for field in ("width", "depth", "heads")]
        usual = (self.width, self.depth, self.heads)
        width, depth, heads = (u if o is None else o for o, u in zip(own, usual, strict=True))
        return width, depth, heads
