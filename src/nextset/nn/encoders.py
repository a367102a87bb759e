"""Encoders: one vector of an image. A vision transformer whose weights are known, or a small convolutional network that is
trained from nothing.

Images are float32 (B, 3, H, W) in [-1, 1] here as everywhere; what a transformer's weights want is its own affair.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.nn.dinov2 import DinoV2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
GROUPS = 8  # of the convolutional encoder's norms


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Config):
    """Which encoder, of what size; the defaults are DINOv2-B. width: of the vector that comes out.

    kind "dinov2": depth, heads, patch, mlp_ratio and grid (side in patches of the pictures it was learned on).
    kind "conv": channels of its stages, each of which halves the side; what is left is pooled to `cells` x `cells` and read
    by a linear map, so that the vector knows where things are.
    trained: how many of the last blocks are trained beside the norm behind them, -1 = everything.
    """

    kind: Literal["dinov2", "conv"] = "dinov2"
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 14
    grid: int = 37
    mlp_ratio: float = 4.0
    channels: tuple[int, ...] = (32, 64, 128)
    cells: int = 4
    trained: int = -1

    def check(self) -> None:
        self.require("width", 8 <= self.width <= 8192, "between 8 and 8192")
        of_heads = self.kind == "conv" or (self.heads >= 1 and self.width % self.heads == 0)
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        self.require("heads", of_heads, f"a divisor of the width {self.width}")
        self.require("patch", 1 <= self.patch <= 64, "between 1 and 64")
        self.require("grid", 1 <= self.grid <= 256, "between 1 and 256")
        self.require("mlp_ratio", 0 < self.mlp_ratio <= 16, "above 0 and at most 16")
        fits = 1 <= len(self.channels) <= 8 and all(c >= GROUPS and c % GROUPS == 0 for c in self.channels)
        self.require("channels", fits, f"one to eight multiples of {GROUPS}")
        self.require("cells", 1 <= self.cells <= 16, "between 1 and 16")
        blocks = self.depth if self.kind == "dinov2" else len(self.channels)
        self.require("trained", -1 <= self.trained <= blocks, f"between -1 (everything) and {blocks}")

    @property
    def smallest(self) -> int:
        """The smallest side, in pixels, of a picture that it can read."""
        return self.patch if self.kind == "dinov2" else 2 ** len(self.channels) * self.cells


class ConvBlock(nn.Module):
    """A convolution that halves the side, and one of what it gives, added to it."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, outer), nn.GroupNorm(GROUPS, outer)
        self.second = nn.Conv2d(outer, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.second(F.silu(self.norm2(F.silu(self.norm1(x)))))


class ConvEncoder(nn.Module):
    """Stages of one block each, then a linear map of a small grid of cells, normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = config.channels
        self.cells = config.cells
        self.blocks = nn.ModuleList(ConvBlock(inner, outer) for inner, outer in zip((3, *c), c, strict=False))
        self.out = nn.Linear(c[-1] * config.cells**2, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.out.weight.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(self.out(F.adaptive_avg_pool2d(F.silu(x), self.cells).flatten(1)))

    def freeze(self, trained: int) -> None:
        """Train the last `trained` stages and the map behind them, and nothing else."""
        self.requires_grad_(False)
        for part in (self.out, self.norm, *self.blocks[len(self.blocks) - trained :]):
            part.requires_grad_(True)


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> vectors (B, width)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = self.config = config
        self.net = (
            DinoV2(c.width, c.depth, c.heads, c.patch, c.grid, c.mlp_ratio) if c.kind == "dinov2" else ConvEncoder(c)
        )
        if c.trained >= 0:
            self.net.freeze(c.trained)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
        return self.net(((images + 1) / 2 - mean) / std)
