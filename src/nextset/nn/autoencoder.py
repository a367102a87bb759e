"""The convolutional autoencoder of VQGAN, of which most image tokenizers here are built.

`Encoder` turns pixels into a feature map, `Decoder` the reverse; what lies between (a quantiser, a KL bottleneck) is
not known here. Module names follow the VQGAN lineage (`down.0.block.1.conv2`), so that released files need no
renaming. A `stem` above 1 replaces the first levels by space-to-depth, which is what makes training on a CPU fast.

Shapes: images (B, 3, H, W) in [-1, 1]; features (B, latent, H / downsampling, W / downsampling).
Source: Esser et al., "Taming Transformers" (2021), appendix; sheet `var`, section Tokenizer.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.configs import Config


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Sizes of an encoder and its decoder.

    channels: width of the first level; multipliers: width of each level over it (one level more = 2x smaller).
    blocks: residual blocks a level (the decoder has one more). latent: channels of the feature map.
    groups: of every GroupNorm; 0 = 32, or 24 where only that divides the width. attention: attention after each block of
    the last level. middle_attention: between the two blocks at the smallest size. stem: space-to-depth factor in front
    of the first level (and depth-to-space behind the last), 1 = none.
    """

    channels: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 32
    groups: int = 32
    attention: bool = True
    middle_attention: bool = True
    stem: int = 1
    dropout: float = 0.0

    def check(self) -> None:
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require(
            "multipliers", 1 <= len(self.multipliers) <= 8 and min(self.multipliers) >= 1, "1 to 8 positive integers"
        )
        self.require("blocks", 1 <= self.blocks <= 16, "between 1 and 16")
        self.require("latent", 1 <= self.latent <= 4096, "between 1 and 4096")
        widths = [self.channels * m for m in self.multipliers]
        fits = all(w % groups_of(w, self.groups) == 0 for w in widths)
        self.require("groups", self.groups >= 0 and fits, f"a divisor of every width {widths}")
        self.require("stem", self.stem in (1, 2, 4, 8), "1, 2, 4 or 8")
        self.require("dropout", 0 <= self.dropout < 1, "in [0, 1)")

    @property
    def downsampling(self) -> int:
        """Pixels of the image a side of one cell of the feature map."""
        return self.stem * 2 ** (len(self.multipliers) - 1)


def groups_of(channels: int, groups: int) -> int:
    """Groups of a norm over that many channels."""
    return groups or (24 if channels % 32 and channels % 24 == 0 else 32)


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups_of(channels, groups), channels, eps=1e-6, affine=True)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 shortcut where the width changes."""

    def __init__(self, inner: int, outer: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(inner, groups)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = group_norm(outer, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class SpatialAttention(nn.Module):
    """One-head attention over all cells of a feature map, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return x + self.proj_out(out.squeeze(1).transpose(1, 2).reshape(b, c, h, w))


class Downsample(nn.Module):
    """Halve both sides: zero row and column on the right and bottom, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides by repetition, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Block, attention (or none), block at the smallest size."""

    def __init__(self, width: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, config.groups, config.dropout)
        self.attn_1 = SpatialAttention(width, config.groups) if config.middle_attention else nn.Identity()
        self.block_2 = ResBlock(width, width, config.groups, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one size, attention after each where `attend`, then one change of size or none."""

    def __init__(
        self,
        inner: int,
        width: int,
        blocks: int,
        attend: bool,
        config: AutoencoderConfig,
        *,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(inner if j == 0 else width, width, config.groups, config.dropout) for j in range(blocks)
        )
        self.attn = nn.ModuleList(SpatialAttention(width, config.groups) for _ in range(blocks if attend else 0))
        self.downsample = Downsample(width) if downsample else nn.Identity()
        self.upsample = Upsample(width) if upsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for j, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[j](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """Images (B, colours, H, W) in [-1, 1] -> features (B, latent, H / downsampling, W / downsampling)."""

    def __init__(self, config: AutoencoderConfig, colours: int = 3) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        self.stem = config.stem
        self.conv_in = nn.Conv2d(colours * config.stem**2, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            Level(inner, width, config.blocks, config.attention and i == last, config, downsample=i < last)
            for i, (inner, width) in enumerate(zip([config.channels, *widths], widths, strict=False))
        )
        self.mid = Middle(widths[-1], config)
        self.norm_out = group_norm(widths[-1], config.groups)
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.stem) if self.stem > 1 else x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features (B, latent, h, w) -> images (B, colours, h * downsampling, w * downsampling), not clamped."""

    def __init__(self, config: AutoencoderConfig, colours: int = 3) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        self.stem = config.stem
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config)
        # indexed by level; the last one runs first
        self.up = nn.ModuleList(
            Level(inner, width, config.blocks + 1, config.attention and i == last, config, upsample=i > 0)
            for i, (inner, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], colours * config.stem**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return F.pixel_shuffle(x, self.stem) if self.stem > 1 else x


def channels_last(module: nn.Module) -> nn.Module:
    """The same module with its convolution weights laid out as CPUs and tensor cores like them (numerics unchanged)."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
