"""What tokenizers of residual pyramids share: an encoder, a quantiser of scales that add up, a decoder.

Which codes a scale is made of, and what a tokenizer is trained with, is the business of its subclass.

Shapes: images (B, 3, H, W) in [-1, 1]; feature maps (B, C, h, w); codes (B, L) ids or (B, L, D) bits, scales one after
another from coarse to fine, raster order inside a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.spec import ImageSpec
from nextset.nn.autoencoder import Decoder, Encoder

Side = int | tuple[int, int]


def as_pairs(sides: Sequence[Side]) -> tuple[tuple[int, int], ...]:
    """(h, w) of each scale; a plain number means a square."""
    return tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in sides)


class Pyramid(nn.Module):
    """A tokenizer of scales. `sides` may differ per call where a model draws its own plan."""

    config: Any
    encoder: Encoder
    decoder: Decoder
    quantiser: Any
    vocabulary: int

    # ---- what it is

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each scale at the training resolution, in tokens."""
        return as_pairs(self.config.sides)

    @property
    def spec(self) -> ImageSpec:
        """Sizes, for whoever uses it."""
        down = self.config.autoencoder.downsampling
        pixels = down * self.quantiser.patch
        return ImageSpec(
            downsampling=down,
            channels=self.config.autoencoder.latent,
            vocabulary=self.vocabulary,
            tokens=sum(h * w for h, w in self.sides),
            size=(self.sides[-1][0] * pixels, self.sides[-1][1] * pixels),
            lanes=self.quantiser.lanes,
            patch=self.quantiser.patch,
        )

    # ---- images to codes and back

    def before(self, images: Tensor) -> Tensor:
        """Images -> the feature map that is quantised."""
        return self.encoder(images)

    def after(self, f_hat: Tensor) -> Tensor:
        """The quantised feature map -> images, not clamped."""
        return self.decoder(f_hat)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> feature map (B, C, h, w) before quantisation."""
        unit = self.config.autoencoder.downsampling * self.quantiser.patch
        if images.shape[-2] % unit or images.shape[-1] % unit:
            raise NextsetError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, but both sides must be multiples of {unit}; resize it"
            )
        if images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        return self.before(images)

    def targets(self, f: Tensor, sides: Sequence[tuple[int, int]]) -> Sequence[Tensor] | None:
        """What the sum of scales should be after each scale; None: the whole feature map, always."""
        return None

    @torch.no_grad()
    def encode(self, images: Tensor, sides: Sequence[Side] | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> codes (B, L) or (B, L, D)."""
        return self.encode_features(self.features(images).float(), sides)

    @torch.no_grad()
    def encode_features(self, f: Tensor, sides: Sequence[Side] | None = None) -> Tensor:
        """Feature maps (B, C, h, w) -> codes (B, L) or (B, L, D)."""
        pairs = as_pairs(sides) if sides is not None else self.sides
        return torch.cat([codes for codes, _, _ in self.quantiser.scales(f, pairs, self.targets(f, pairs))], dim=1)

    def f_hat(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """Codes (B, L) or (B, L, D) -> the sum of the scales before `upto` (None = all), (B, C, h, w)."""
        pairs = as_pairs(sides) if sides is not None else self.sides
        total: Tensor | None = None
        start = 0
        for k, (h, w) in enumerate(pairs[:upto]):
            added = self.quantiser.contribution(self.quantiser.embed(codes[:, start : start + h * w]), k, pairs)
            total = added if total is None else total + added
            start += h * w
        if total is None:
            (h, w), patch = pairs[-1], self.quantiser.patch
            total = torch.zeros(codes.shape[0], self.quantiser.channels, h * patch, w * patch, device=codes.device)
        return total

    def decode_features(self, f_hat: Tensor) -> Tensor:
        """Sum of scales (B, C, h, w) -> images (B, 3, H, W), not clamped."""
        f_hat = f_hat.to(next(self.decoder.parameters()).dtype)
        if f_hat.device.type == "cpu":
            f_hat = f_hat.contiguous(memory_format=torch.channels_last)
        return self.after(f_hat)

    @torch.no_grad()
    def decode(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """Codes -> images (B, 3, H, W) float32 in [-1, 1]; `upto` scales only, when given."""
        return self.decode_features(self.f_hat(codes, upto, sides)).float().clamp(-1, 1)
