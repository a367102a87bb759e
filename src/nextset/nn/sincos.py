"""Fixed positions as sines and cosines, of a line and of a clip. Tables (n, C) float32, for any number of places.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, sines before cosines; of clips: sheet `nar`, Video
tokenizer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def line(places: Tensor, channels: int) -> Tensor:
    """places (n,) -> (n, channels): sin(p w_j), then cos(p w_j), w_j = 10000^(-j / (channels / 2)); channels even."""
    half = channels // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = places.double()[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def clip(frames: int, height: int, width: int, channels: int) -> Tensor:
    """The cells of a clip, frame after frame, in raster order: (frames height width, channels).

    The first half of the channels tells the column, the second the row; the frame is added over all. channels: a
    multiple of 4.
    """
    t, y, x = torch.meshgrid(*[torch.arange(n) for n in (frames, height, width)], indexing="ij")
    inside = torch.cat([line(x.flatten(), channels // 2), line(y.flatten(), channels // 2)], 1)
    return inside + line(t.flatten(), channels)
