"""Photos as the encoder reads them: square crops that lie side by side."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nextset.core.errors import NextsetError


def crops(photos: Tensor, pixels: int) -> Tensor:
    """Photos in [-1, 1] -> crops (N, n, 3, P, P), P = pixels.

    A photo (N, 3, h, w) is resized to P x 2P, whatever its shape (bilinear, without antialias), and cut into a left and a
    right half. Several of one place are (N, n, 3, h, w); those that are P x P already are crops, and stay as they are.
    """
    if photos.dim() not in (4, 5) or photos.shape[-3] != 3 or not photos.numel():
        raise NextsetError(
            f"photos have shape {tuple(photos.shape)}, but must be (N, 3, h, w), or (N, n, 3, h, w) where a place has several"
        )
    several = photos if photos.dim() == 5 else photos[:, None]
    if several.shape[-2:] == (pixels, pixels):
        return several.float()
    wide = several.flatten(0, 1).float()
    if wide.shape[-2:] != (pixels, 2 * pixels):
        wide = F.interpolate(wide, size=(pixels, 2 * pixels), mode="bilinear", align_corners=False)
    halves = wide.unflatten(-1, (2, pixels)).permute(0, 3, 1, 2, 4)  # (N n, 2, 3, P, P)
    return halves.unflatten(0, several.shape[:2]).flatten(1, 2)
