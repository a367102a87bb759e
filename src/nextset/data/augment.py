"""Augmentation of transparent pictures: position, scale and the colour of the ground.

Every draw is a function of (seed, sample index), so that batches, their order and a resumed run change nothing. It
knows nothing of what the pictures show.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Noise


def composite(rgba: Tensor, colour: Tensor) -> Tensor:
    """(B, 4, H, W) in [0, 1] over colours (B, 3) -> (B, 3, H, W) in [-1, 1]."""
    alpha = rgba[:, 3:]
    return (rgba[:, :3] * alpha + colour[:, :, None, None] * (1 - alpha)) * 2 - 1


def augment(
    rgba: Tensor, noise: Noise, samples: Tensor, *, shift: float = 2.0, scale: float = 0.1, background: float = 0.0
) -> Tensor:
    """Move, scale and re-colour the ground of square pictures (B, 4, H, H) in [0, 1] -> (B, 3, H, H) in [-1, 1].

    shift: up to that many pixels each way. scale: up to that fraction larger or smaller. Both end where the picture
    would leave the frame: nothing is ever cut. background: probability of a pale random ground instead of white. All
    draws are functions of the sample index (B,).
    """
    u = noise.of("augment").uniform(samples, torch.arange(7))
    if shift or scale:
        rgba = _move(rgba, 1 + (2 * u[:, :1] - 1) * scale, (2 * u[:, 1:3] - 1) * shift)
    pale = 0.6 + 0.4 * u[:, 4:7]
    colour = torch.where((u[:, 3] < background)[:, None], pale, torch.ones(len(rgba), 3))
    return composite(rgba, colour)


def _move(rgba: Tensor, zoom: Tensor, move: Tensor) -> Tensor:
    """Scale about the centre by zoom (B, 1), then move by (B, 2) pixels (x, y), as far as the frame allows."""
    size = rgba.shape[-1]
    seen = rgba[:, 3] > 0
    edges = torch.stack([seen.any(1), seen.any(2)], 1).to(torch.uint8)  # (B, 2, size): columns, rows that are not empty
    low = edges.argmax(-1) - size / 2  # from the centre
    high = size / 2 - edges.flip(-1).argmax(-1)
    zoom = torch.minimum(zoom, size / (high - low).amax(1, keepdim=True))
    move = torch.minimum(torch.maximum(move, -size / 2 - zoom * low), size / 2 - zoom * high)
    # where each output pixel comes from, in the units of grid_sample: -1 and 1 are the borders of the frame
    centres = (torch.arange(size) + 0.5) - size / 2
    origin = (centres - move[:, :, None]) / zoom[:, :, None] * (2 / size)
    x, y = origin[:, 0, None, :].expand(-1, size, -1), origin[:, 1, :, None].expand(-1, -1, size)
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    # bicubic keeps edges sharper than bilinear at these small scales; its overshoot is clamped
    moved = F.grid_sample(premultiplied, torch.stack([x, y], -1), mode="bicubic", align_corners=False).clamp(0, 1)
    return torch.cat([(moved[:, :3] / moved[:, 3:].clamp_min(1e-6)).clamp(0, 1), moved[:, 3:]], 1)
