"""NAR: all tokens at the same distance from the first corner at once, each from its neighbours nearer to it (He et al. 2025,
arXiv 2503.10696).

What is NAR's own, on LlamaGen: the plan of diagonals (of an image) or planes (of a clip); a head for each axis, tapped from
blocks that follow the trunk, which says what comes behind a token along that axis; the mean of what a token's neighbours
say of it. A clip has learned positions in place of turns, and the tokens of a video tokenizer.

Shapes: rows R, fed slots n, width C; ids (N, L) in raster order of (h, w) or (t, h, w).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.spec import VideoSpec
from nextset.core.steps import Step
from nextset.heads.categorical import Softmax
from nextset.heads.taps import MeanOfTaps
from nextset.nn.llama import RMSNorm
from nextset.systems.llamagen.config import LlamaGenConfig
from nextset.systems.llamagen.model import Conditioned, LlamaGen
from nextset.systems.nar.grid import Diagonals
from nextset.tokenizers.attached import Tokenized


@dataclasses.dataclass(frozen=True)
class NarConfig(LlamaGenConfig):
    """LlamaGen's sizes, and those of the heads. `depth` blocks come before the first tap.

    grid: (t, h, w) of the tokens of a clip, whose positions must be "learned"; empty: an image of `sides`. extra: blocks from
    one tap to the next (the authors' `medusa_attention_num`). nearest: one head alone, which predicts a token from the first
    neighbour that there is; an experiment, not the authors' model.
    """

    grid: tuple[int, ...] = ()
    extra: int = 1
    nearest: bool = False

    def check(self) -> None:
        super().check()
        fits = not self.grid or (len(self.grid) == 3 and min(self.grid) >= 1 and prod(self.grid) <= 2**18)
        self.require(
            "grid", fits, "three positive sides (t, h, w) of at most 262144 tokens in all, or empty for images"
        )
        self.require("positions", not self.grid or self.positions == "learned", '"learned" for clips')
        self.require("asked_with", not self.grid or self.asked_with == "class", '"class" for clips')
        self.require("extra", 0 <= self.extra <= 64, "between 0 and 64")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the map of tokens, (h, w) or (t, h, w)."""
        return self.grid or self.sides * 2

    @property
    def taps(self) -> tuple[int, ...]:
        """After how many blocks each tap comes, the last axis first."""
        return tuple(self.depth + i * self.extra for i in range(1 if self.nearest else len(self.shape)))

    @property
    def blocks(self) -> int:
        return self.taps[-1]


class Tap(nn.Module):
    """Norm and head of one tap."""

    def __init__(self, config: NarConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, config.eps)
        self.classifier = Softmax(config.width, config.vocabulary, bias=False)


class Nar(LlamaGen):
    """LlamaGen with taps: the first is LlamaGen's own norm and head, the others are in `further`."""

    slug = "nar"
    config_type = NarConfig
    scales: ClassVar[Mapping[str, float]] = {"class": 2.0, "text": 7.5}
    ranks: ClassVar[Mapping[str, int]] = {"class": 0, "text": 0}
    config: NarConfig

    # ---- parts

    def extend(self) -> None:
        self.further = nn.ModuleList(Tap(self.config) for _ in self.config.taps[1:])
        if self.config.grid:  # as in the authors' trainer of clips, linear maps alone decay
            self.no_decay = ("token.", "prefix.", "place")

    @property
    def heads(self) -> tuple[Softmax, ...]:
        """One a tap."""
        return (self.classifier, *(tap.classifier for tap in self.further))  # type: ignore[arg-type]

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """One a tap."""
        return (self.norm, *(tap.norm for tap in self.further))  # type: ignore[arg-type]

    def make_grid(self) -> Diagonals:
        c = self.config
        return Diagonals(self.prefix.length, c.sides[0], c.shape, c.nearest)

    def silent(self) -> Sequence[Softmax]:
        """Of images the first head alone begins at zero, of clips all do (sheet, Model)."""
        return self.heads if self.config.grid else (self.classifier,)

    def attach(self, tokenizer: Any) -> None:
        """Use this tokenizer: of images, at the size of this model, or of clips."""
        grid = self.config.grid
        if not grid:
            return super().attach(tokenizer)
        spec = tokenizer.spec
        if not isinstance(spec, VideoSpec):
            raise NextsetError(
                f"the tokenizer is {type(tokenizer).__name__}, which reads images, but this model makes clips; "
                "attach one of clips"
            )
        if spec.tokens != prod(grid):
            raise NextsetError(
                f"the grid of this model is {'x'.join(map(str, grid))} = {prod(grid)} tokens, but a clip of the tokenizer "
                f"has {spec.tokens}; load the one it was trained on"
            )
        Tokenized.attach(self, tokenizer)

    # ---- what the engine calls

    def trunk(self, x: Tensor, cond: Conditioned, ctx: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Ids (R, n) of the fed slots -> hidden states (R, n, C), one a tap."""
        h, taps = self.enter(x, cond, ctx), list[Tensor]()
        for norm, (first, end) in zip(self.norms, itertools.pairwise((0, *self.config.taps)), strict=True):
            h = self.through(h, cond, ctx, first, end)
            taps.append(norm(h))
        return tuple(taps)

    def head(self, step: Step, cond: Conditioned) -> MeanOfTaps:
        return MeanOfTaps(self.heads)

    # ---- requests

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which ids of an image stay: mask (h, w), 1 = keep -> (L,) bool."""
        if self.config.grid:
            raise NextsetError(
                "a token of this model belongs to no place of its clip, so that no part of it can be kept"
            )
        return super().keep_mask(mask)
