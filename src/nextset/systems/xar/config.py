"""Sizes of xAR, what its next thing is, and what it is trained with. Source: sheet `xar`, Model and Training."""

from __future__ import annotations

import dataclasses
from functools import cached_property

from nextset.core.configs import Config
from nextset.core.entities import Entities, entities

CONTEXTS = ("noisy", "clean")


@dataclasses.dataclass(frozen=True)
class XarConfig(Config):
    """Sizes of the two stacks, the entities, and what they are trained with.

    sides: one, of the grid of tokens. channels, patch: of the latents, and cells of a token, a side. entity: what is
    drawn at once, see `core.entities.GRAMMAR`. width: of both stacks. depth, heads: of the first; decoder_*: of the
    second, None = the same. context: what training shows of earlier entities, "noisy" (each at a time of its own) or
    "clean". label_drop: probability of training without the class.
    """

    classes: int = 1000
    sides: tuple[int, ...] = (16,)
    channels: int = 16
    patch: int = 1
    entity: str = "cell"
    width: int = 768
    depth: int = 8
    heads: int = 12
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    label_drop: float = 0.1
    context: str = "noisy"

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("patch", 1 <= self.patch <= 16, "between 1 and 16")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        for name, depth, heads in (
            ("", self.depths[0], self.head_counts[0]),
            ("decoder_", self.depths[1], self.head_counts[1]),
        ):
            self.require(f"{name}depth", 1 <= depth <= 128, "between 1 and 128")
            fits = heads >= 1 and self.width % (4 * heads) == 0
            self.require(
                f"{name}heads",
                fits,
                f"such that {self.width} / heads is a multiple of 4: positions turn pairs of both axes",
            )
        self.require("mlp_ratio", 0.25 <= self.mlp_ratio <= 64, "between 0.25 and 64")
        for name in ("dropout", "label_drop"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self.require("context", self.context in CONTEXTS, " or ".join(CONTEXTS))
        entities(self.entity, self.sides[0])  # says itself what is wrong

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks of the two stacks."""
        return self.depth, self.depth if self.decoder_depth is None else self.decoder_depth

    @property
    def head_counts(self) -> tuple[int, int]:
        """Heads of the two stacks."""
        return self.heads, self.heads if self.decoder_heads is None else self.decoder_heads

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.sides[0] ** 2

    @property
    def token_channels(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2

    @cached_property
    def entities(self) -> Entities:
        """What is drawn at once, one after another."""
        return entities(self.entity, self.sides[0])
