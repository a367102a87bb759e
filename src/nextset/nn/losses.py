"""Reconstruction losses that need no downloaded network. Images (B, 3, H, W); each function returns a scalar."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gradient_loss(x: Tensor, y: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute difference of image gradients, summed over `levels` of a 2x pyramid.

    It asks for edges where a plain L1 is content with a blur, at several sizes.
    """
    total = x.new_zeros(())
    for level in range(levels):
        if level:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        d = x - y
        total = total + (d[..., 1:, :] - d[..., :-1, :]).abs().mean() + (d[..., :, 1:] - d[..., :, :-1]).abs().mean()
    return total


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], one figure an image: (B,)."""
    mse = (x - y).float().square().flatten(1).mean(1)
    return 10 * (4 / mse.clamp_min(1e-12)).log10()
