"""A VQ tokenizer of clips: some frames that follow each other are one picture of more channels, an id for each of its cells.

So an id stands for a box of a clip, and the ids of a clip lie in a grid of (t, h, w) such boxes. Groups of frames know
nothing of each other: what holds a clip together is the generator's business. It is our own, small enough to be trained
on a CPU within minutes; released generators use `larp`.

Shapes: clips (B, 3, T, H, W) in [-1, 1]; as pictures (B t, 3 f, H, W), T = t f; ids (B, t h w) int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from nextset.core.spec import VideoSpec
from nextset.tokenizers.clips import check_clips, check_ids, frames_of
from nextset.tokenizers.pyramid import Side
from nextset.tokenizers.vq import VQConfig, VQTokenizer


@dataclasses.dataclass(frozen=True)
class FoldedVQConfig(VQConfig):
    """As `VQConfig`. frames: of a clip. fold: frames that share their ids, a divisor of `frames`."""

    frames: int = 16
    fold: int = 4

    def check(self) -> None:
        super().check()
        self.require("frames", 1 <= self.frames <= 1024, "between 1 and 1024")
        self.require("fold", self.fold >= 1 and self.frames % self.fold == 0, f"a divisor of {self.frames} frames")

    @property
    def colours(self) -> int:
        return 3 * self.fold

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) of the ids of a clip."""
        return self.frames // self.fold, self.sides[0], self.sides[0]


class FoldedVQ(VQTokenizer):
    """The whole tokenizer."""

    config_type = FoldedVQConfig
    config: FoldedVQConfig

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of its one set of ids: the planes of the grid, one under another."""
        t, h, w = self.config.grid
        return ((t * h, w),)

    @property
    def spec(self) -> VideoSpec:  # type: ignore[override]
        c, down = self.config, self.config.autoencoder.downsampling
        return VideoSpec(
            downsampling=down,
            channels=c.channels,
            vocabulary=c.vocabulary,
            tokens=c.grid[0] * c.grid[1] * c.grid[2],
            size=(c.sides[0] * down, c.sides[0] * down),
            frames=c.frames,
            grid=c.grid,
        )

    def features(self, images: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> feature maps (B t, C, h, w)."""
        check_clips(images, self.config.frames, self.spec.size)
        return super().features(frames_of(images).unflatten(0, (-1, self.config.fold)).flatten(1, 2))

    def pictures(self, x: Tensor) -> Tensor:
        """Clips, or what the decoder made of them (B t, 3 f, H, W) -> their frames (B T, 3, H, W)."""
        return frames_of(x) if x.dim() == 5 else x.unflatten(1, (-1, 3)).flatten(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor, sides: Sequence[Side] | None = None) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1] -> ids (B, t h w)."""
        return super().encode(images, sides).view(len(images), -1)

    @torch.no_grad()
    def decode(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """ids (B, t h w) -> clips (B, 3, T, H, W) float32 in [-1, 1]; `upto` counts scales, of which there is one."""
        check_ids(codes, self.spec.tokens)
        _, h, w = self.config.grid
        made = super().decode(codes.reshape(-1, h * w), upto, sides or [(h, w)])
        return self.pictures(made).unflatten(0, (-1, self.config.frames)).transpose(1, 2)
