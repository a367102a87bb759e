"""Changes to street photos in training, each a function of the sample's index. Source: sheet `just_zoom_in`, Training.

JPEG noise is left out, and blur and sharpening use one 3 x 3 kernel (chosen). North stays north, so nothing is mirrored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Noise

_GREY = (0.299, 0.587, 0.114)


def augment_photos(x: Tensor, noise: Noise, samples: Tensor) -> Tensor:
    """Photos (B, 3, P, 2P) in [-1, 1] -> changed ones. samples (B,): global sample indices, which address the noise.

    A crop of 0.7 to 1 of the area at the same aspect; brightness, contrast, saturation (0.8 to 1.2 each, probability 0.5);
    grey (0.1); blur or sharpening (0.3); and in each half, with probability 0.3, holes: a grid, or 10 to 25 boxes of 0.1 to
    0.2 of its side.
    """
    u = noise.of("look").uniform(samples, torch.arange(16)).to(x.device)
    x = _crop(x, u[:, 0:3])
    x = _colours(x, u[:, 3:8])
    x = _sharpness(x, u[:, 8:10])
    halves = [_holes(half, noise.of(f"holes{k}"), samples) for k, half in enumerate(x.chunk(2, -1))]
    return torch.cat(halves, -1).clamp(-1, 1)


def augment_views(x: Tensor, noise: Noise, samples: Tensor) -> Tensor:
    """Views of a map (U, 3, P, P) in [-1, 1] -> changed ones: colours, sharpness and holes as above, but no crop, because
    where things lie is what a view says."""
    u = noise.of("look").uniform(samples, torch.arange(8)).to(x.device)
    x = _sharpness(_colours(x, u[:, 0:5]), u[:, 5:7])
    return _holes(x, noise.of("holes"), samples, ratio=0.4).clamp(-1, 1)


def _crop(x: Tensor, u: Tensor) -> Tensor:
    scale = (0.7 + 0.3 * u[:, 0]).sqrt()
    free = 1 - scale
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2], theta[:, 1, 2] = free * (2 * u[:, 1] - 1), free * (2 * u[:, 2] - 1)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), "bilinear", "border", False)


def _colours(x: Tensor, u: Tensor) -> Tensor:
    brightness, contrast, saturation = (0.8 + 0.4 * v[:, None, None, None] for v in (u[:, 0], u[:, 1], u[:, 2]))
    weights = torch.tensor(_GREY, device=x.device)[:, None, None]
    y = ((x + 1) * brightness).clamp(0, 2)
    y = (y.mean((1, 2, 3), keepdim=True) * (1 - contrast) + y * contrast).clamp(0, 2)
    y = ((y * weights).sum(1, keepdim=True) * (1 - saturation) + y * saturation).clamp(0, 2) - 1
    x = torch.where((u[:, 3] < 0.5)[:, None, None, None], y, x)
    grey = (x * weights).sum(1, keepdim=True).expand_as(x)
    return torch.where((u[:, 4] < 0.1)[:, None, None, None], grey, x)


def _sharpness(x: Tensor, u: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0], device=x.device)
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), kernel, groups=3)
    amount = torch.where(u[:, 1] < 0.5, 1.0, -0.7)[:, None, None, None]  # towards the blurred one, or away from it
    return torch.where((u[:, 0] < 0.3)[:, None, None, None], x + amount * (soft - x), x)


def _holes(x: Tensor, noise: Noise, samples: Tensor, ratio: float = 0.5) -> Tensor:
    """ratio: side of a grid's holes, in its units."""
    height, width = x.shape[2:]
    which = noise.of("which").uniform(samples, torch.arange(4)).to(x.device)
    row, column = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    unit = (0.15 + 0.2 * which[:, 3]) * width  # of a grid
    unit = unit.clamp(min=2)[:, None, None]
    grid = (row % unit < unit * ratio) & (column % unit < unit * ratio)
    u = noise.of("boxes").uniform(samples, torch.arange(25), lanes=4).to(x.device)[..., None, None]
    top, left = u[:, :, 0] * height, u[:, :, 1] * width
    tall, wide = (0.1 + 0.1 * u[:, :, 2]) * height, (0.1 + 0.1 * u[:, :, 3]) * width
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)
    count = (10 + 16 * which[:, 2]).long()
    counted = torch.arange(25, device=x.device) < count[:, None]
    boxes = (inside & counted[..., None, None]).any(1)
    hole = torch.where((which[:, 1] < 0.5)[:, None, None], grid, boxes) & (which[:, 0] < 0.3)[:, None, None]
    return torch.where(hole[:, None], -1.0, x)
