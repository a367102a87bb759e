"""Sizes of Infinity's transformer, and what it is trained with."""

from __future__ import annotations

import dataclasses

from nextset.core.configs import Config
from nextset.systems.infinity.schedules import Rope, schedule
from nextset.text.words import WordsConfig


@dataclasses.dataclass(frozen=True)
class InfinityConfig(Config):
    """Sizes of the transformer and what it is trained with.

    channels: of a cell of the tokenizer; patch: cells of a token, a side. sides: of the scales of a model that knows one
    size; empty = every size of the released table (`schedules`), by default with `pixels` pixels. reference: positions are
    measured in a grid of that longer side (sides outside the table). levels: rows of the level embedding.
    level_chunks: add the level embedding before each of so many runs of blocks, 1 = before the first alone.
    text_channels: width of the text features; text_length: rows of the learned null text. words: the encoder that is
    trained with it; None: features come from outside. cross_scale, rope: see `InfinityBlock`, `Grids.turns`.
    correction: most bits that are flipped in training, 0 = none, in the first `correction_scales` scales; requantise: see
    `corrected`. reweight: tokens of a scale weigh sqrt(last / its cells), else all alike. text_drop: probability of
    training without the text.
    """

    depth: int = 32
    width: int = 2048
    heads: int = 16
    channels: int = 32
    patch: int = 1
    sides: tuple[int, ...] = ()
    pixels: str = "1M"
    reference: int = 64
    levels: int = 15
    level_chunks: int = 1
    mlp_ratio: float = 4.0
    text_channels: int = 2048
    text_length: int = 512
    pool_heads: int | None = None
    words: WordsConfig | None = None
    cross_scale: float | None = None
    rope: Rope = "normalised"
    drop_path: float = 0.1
    eps: float = 1e-6
    correction: float = 0.3
    correction_scales: int = 13
    requantise: bool = True
    reweight: bool = True
    text_drop: float = 0.1
    gate_init: float = 5e-6
    head_init: float = 1e-3

    def check(self) -> None:
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        fits = self.heads >= 1 and self.width % self.heads == 0 and self.width // self.heads % 4 == 0
        self.require("heads", fits, f"a divisor of the width {self.width} that leaves a multiple of 4")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("patch", self.patch in (1, 2, 4), "1, 2 or 4")
        ok = len(self.sides) <= 64 and all(1 <= s <= 512 for s in self.sides) and list(self.sides) == sorted(self.sides)
        self.require("sides", ok, "up to 64 growing sides between 1 and 512")
        scales = len(self.sides) or len(schedule(1.0, self.pixels))
        self.require("levels", self.levels >= scales, f"at least the number of scales {scales}")
        self.require(
            "level_chunks", self.depth % max(self.level_chunks, 1) == 0, f"a divisor of the depth {self.depth}"
        )
        self.require("text_length", 1 <= self.text_length <= 4096, "between 1 and 4096")
        given = self.words is None or self.words.width == self.text_channels
        self.require("text_channels", given and self.text_channels >= 1, "the width of the words' encoder")
        self.require("pool_heads", self.width % self.pooling == 0, f"a divisor of the width {self.width}")
        for name in ("correction", "text_drop", "drop_path"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    @property
    def pooling(self) -> int:
        """Heads of the pool over the text."""
        return self.pool_heads or max(self.text_channels // (128 if self.width <= 4096 else 64), 1)

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers: a multiple of 256."""
        return max(round(self.width * self.mlp_ratio / 256), 1) * 256

    @property
    def bits(self) -> int:
        """Bits of a token."""
        return self.channels * self.patch**2
