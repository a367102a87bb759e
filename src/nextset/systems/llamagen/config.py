"""Sizes of LlamaGen's transformer, and what it is trained with."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nextset.core.configs import Config
from nextset.systems.llamagen.grid import Positions
from nextset.text.words import WordsConfig


@dataclasses.dataclass(frozen=True)
class LlamaGenConfig(Config):
    """Sizes of the transformer and what it is trained with. The defaults are GPT-B at 256 pixels.

    asked_with: "class", of `classes`, or "text", as features of `text_channels` in at most `text_length` slots. words: an
    encoder of texts that is trained with it; None: features come from outside. sides: the one side of the token map. keys:
    heads of keys and values, 0 = as many as heads. hidden: width of the feed-forward layers, 0 = 8/3 of the width, rounded
    up to a multiple of 256. positions: see `grid`; rope_base: of its angles.
    condition_drop: probability of training without the condition. token_dropout: of the input; dropout: of what blocks add,
    off where drop_path, the rate at the last block, is on.
    """

    asked_with: Literal["class", "text"] = "class"
    classes: int = 1000
    text_channels: int = 2048
    text_length: int = 120
    words: WordsConfig | None = None
    depth: int = 12
    width: int = 768
    heads: int = 12
    keys: int = 0
    hidden: int = 0
    vocabulary: int = 16384
    sides: tuple[int, ...] = (16,)
    positions: Positions = "grid"
    rope_base: float = 10000.0
    eps: float = 1e-5
    condition_drop: float = 0.1
    token_dropout: float = 0.1
    dropout: float = 0.1
    drop_path: float = 0.0

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("text_channels", 1 <= self.text_channels <= 65536, "between 1 and 65536")
        self.require("text_length", 1 <= self.text_length <= 4096, "between 1 and 4096")
        sizes = None if self.words is None else (self.words.width, self.words.length)
        given = sizes is None or (self.asked_with == "text" and sizes == (self.text_channels, self.text_length))
        self.require("words", given, "asked_with text, of the width text_channels and the length text_length")
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        fits = self.heads >= 1 and self.width % (4 * self.heads) == 0
        self.require("heads", fits, f"such that heads of width {self.width} / heads are multiples of 4")
        self.require("keys", self.keys >= 0 and self.heads % (self.keys or 1) == 0, f"a divisor of {self.heads}, or 0")
        self.require("hidden", 0 <= self.hidden <= 10**6, "between 0 and 1000000")
        self.require("vocabulary", 2 <= self.vocabulary <= 2**20, "between 2 and 1048576")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        for name in ("condition_drop", "token_dropout", "dropout", "drop_path"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    @property
    def blocks(self) -> int:
        """Blocks of the trunk."""
        return self.depth

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layers."""
        return self.hidden or -(-(8 * self.width // 3) // 256) * 256
