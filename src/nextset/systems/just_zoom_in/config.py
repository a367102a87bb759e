"""Sizes of the decoder and its encoder, and what they are trained with. Source: sheet, Model and Training."""

from __future__ import annotations

import dataclasses

from nextset.core.configs import Config
from nextset.nn.encoders import EncoderConfig


@dataclasses.dataclass(frozen=True)
class JustZoomInConfig(Config):
    """The defaults are the authors' only size: DINOv2-B, a grid of 4 x 4, four steps at 384 pixels.

    encoder: of photo crops and map views; separate: each has one of its own (chosen; the paper shares). pixels: side P of
    every picture that the network reads. grid: a view is cut into grid x grid cells. steps: decisions of a whole search.
    hidden: width of the feed-forward layers, 0 = 2/3 of the width, rounded up to a multiple of 256. dropout: of the input
    and of what blocks add.
    """

    encoder: EncoderConfig = dataclasses.field(default_factory=lambda: EncoderConfig(trained=4))
    separate: bool = False
    pixels: int = 384
    grid: int = 4
    steps: int = 4
    depth: int = 6
    heads: int = 8
    hidden: int = 0
    rope_base: float = 10000.0
    eps: float = 1e-6
    dropout: float = 0.1
    label_smoothing: float = 0.1

    def check(self) -> None:
        self.require("pixels", self.encoder.smallest <= self.pixels <= 4096, f"{self.encoder.smallest} to 4096")
        self.require("grid", 2 <= self.grid <= 32, "between 2 and 32")
        self.require("steps", 1 <= self.steps <= 16, "between 1 and 16")
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        fits = self.heads >= 1 and self.width % (2 * self.heads) == 0
        self.require("heads", fits, f"such that heads of width {self.width} / heads are even")
        self.require("hidden", 0 <= self.hidden <= 10**6, "between 0 and 1000000")
        self.require("rope_base", self.rope_base > 1, "above 1")
        self.require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")

    @property
    def width(self) -> int:
        """Channels of the decoder, which are those of the encoder's vector."""
        return self.encoder.width

    @property
    def actions(self) -> int:
        """Cells of a view."""
        return self.grid**2

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layers."""
        return self.hidden or -(-(2 * self.width // 3) // 256) * 256
