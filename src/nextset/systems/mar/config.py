"""Sizes of MAR, and what it is trained with. Source: sheet `mar`, Model and Training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nextset.core.configs import Config


@dataclasses.dataclass(frozen=True)
class MarConfig(Config):
    """Sizes of the two stacks and the head, and what they are trained with.

    sides: one, of the grid of tokens. channels, patch: of the latents, and cells of a token, a side. width, depth, heads:
    of the encoder; decoder_*: of the decoder, None = the same. buffer: rows in front, all made of the class. head_depth,
    head_width: of the head's network. head: "diffusion", or "regression" to compare it with. repeats: noisings of each token
    in a training step. mask: least share, mean and spread of the truncated normal law of the share that is hidden.
    label_drop: probability of training without the class.
    """

    classes: int = 1000
    sides: tuple[int, ...] = (16,)
    channels: int = 16
    patch: int = 1
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
    dropout: float = 0.1
    label_drop: float = 0.1
    mask: tuple[float, float, float] = (0.7, 1.0, 0.25)

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        self.require("patch", 1 <= self.patch <= 16, "between 1 and 16")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        for stack in ("", "decoder_"):
            width, depth, heads = self.stack(stack)
            self.require(f"{stack}width", 8 <= width <= 16384, "between 8 and 16384")
            self.require(f"{stack}depth", 1 <= depth <= 128, "between 1 and 128")
            self.require(f"{stack}heads", heads >= 1 and width % heads == 0, f"a divisor of the width {width}")
        self.require("buffer", 1 <= self.buffer <= 4096, "between 1 and 4096")
        self.require("head_depth", 1 <= self.head_depth <= 64, "between 1 and 64")
        self.require("head_width", 8 <= self.head_width <= 16384, "between 8 and 16384")
        self.require("repeats", 1 <= self.repeats <= 64, "between 1 and 64")
        for name in ("dropout", "label_drop"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        low, _, spread = self.mask
        self.require("mask", 0 < low < 1 and spread > 0, "(least share in (0, 1), mean, spread > 0)")

    def stack(self, name: str) -> tuple[int, int, int]:
        """(width, depth, heads) of the encoder ("") or the decoder ("decoder_")."""
        own = [getattr(self, name + field) for field in ("width", "depth", "heads")]
        usual = (self.width, self.depth, self.heads)
        width, depth, heads = (u if o is None else o for o, u in zip(own, usual, strict=True))
        return width, depth, heads

    @property
    def tokens(self) -> int:
        """Positions of an image."""
        return self.sides[0] ** 2

    @property
    def token_channels(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2
