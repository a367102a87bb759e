"""What a tokenizer promises to the rest: sizes, never its own insides."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """An image tokenizer: pixels per cell, channels of the latent, vocabulary (None = continuous), tokens an image, (H, W),
    lanes: independent codes of a token (bits), None where a token is one id; patch: cells of a token, a side."""

    downsampling: int
    channels: int
    vocabulary: int | None
    tokens: int
    size: tuple[int, int]
    lanes: int | None = None
    patch: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSpec(ImageSpec):
    """A video tokenizer: besides, frames of a clip, and the (t, h, w) in which its tokens are laid out for generators.

    downsampling: pixels of a frame over a column of that layout.
    """

    frames: int
    grid: tuple[int, int, int]
