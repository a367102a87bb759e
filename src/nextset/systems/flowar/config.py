"""Sizes of FlowAR, and what it is trained with. Source: sheet `flowar`, Model and Training."""

from __future__ import annotations

import dataclasses

from nextset.core.configs import Config
from nextset.heads.flow_net import Mix


@dataclasses.dataclass(frozen=True)
class FlowArConfig(Config):
    """Sizes of the two stacks and the flow head, and what they are trained with.

    sides: one, of the grid of tokens. scales: sides of the pyramid, which ends with the grid. channels, patch: of the
    latents, and cells of a token, a side. width, depth, heads: of the first stack; decoder_*: of the second, None = the
    same. head_depth, head_width, head_heads: of the flow network (None = heads of 64 channels). mix: its blocks,
    "attention" (v1 of the authors) or "cross" (v2). pooled: one condition a scale instead of one a position, for
    comparison. label_drop: probability of training without the class.
    """

    classes: int = 1000
    sides: tuple[int, ...] = (16,)
    scales: tuple[int, ...] = (1, 2, 4, 8, 16)
    channels: int = 16
    patch: int = 1
    width: int = 1024
    depth: int = 8
    heads: int = 16
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0
    head_depth: int = 12
    head_width: int = 1024
    head_heads: int | None = None
    mix: Mix = "cross"
    pooled: bool = False
    dropout: float = 0.1
    label_drop: float = 0.1

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        growing = list(self.scales) == sorted(set(self.scales)) and min(self.scales, default=0) >= 1
        fits = growing and self.scales[-1] == self.sides[0]
        self.require("scales", fits, f"growing sides that end with that of the grid, {self.sides[0]}")
        self.require("patch", 1 <= self.patch <= 16, "between 1 and 16")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        for name, depth, heads in zip(("", "decoder_"), self.depths, self.attention_heads, strict=True):
            self.require(f"{name}depth", 1 <= depth <= 128, "between 1 and 128")
            self.require(f"{name}heads", _fit(self.width, heads), _HEADS.format(self.width))
        self.require("head_depth", 1 <= self.head_depth <= 64, "between 1 and 64")
        self.require("head_width", 8 <= self.head_width <= 16384, "between 8 and 16384")
        self.require("head_heads", _fit(self.head_width, self.flow_heads), _HEADS.format(self.head_width))
        for name in ("dropout", "label_drop"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks of the two stacks."""
        return self.depth, self.depth if self.decoder_depth is None else self.decoder_depth

    @property
    def attention_heads(self) -> tuple[int, int]:
        """Heads of the two stacks."""
        return self.heads, self.heads if self.decoder_heads is None else self.decoder_heads

    @property
    def flow_heads(self) -> int:
        """Heads of the flow network."""
        return max(1, self.head_width // 64) if self.head_heads is None else self.head_heads

    @property
    def tokens(self) -> int:
        """Positions of the last scale, which is the image."""
        return self.sides[0] ** 2

    @property
    def token_channels(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2


_HEADS = "a divisor of the width {} that leaves heads of a multiple of 4 channels"


def _fit(width: int, heads: int) -> bool:
    """Whether so many heads can be turned in two directions."""
    return heads >= 1 and width % (4 * heads) == 0
