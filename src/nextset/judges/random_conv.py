"""A convolutional network whose weights are fixed random numbers: 256 features a picture.

Nothing is learned, so nothing is downloaded and nothing is tuned to one data set; what such a network sees is texture,
edges, colour and their rough places, not objects. A number is named with its seed and its side R.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.judges.hashing import SEED, symmetric
from nextset.judges.pixels import box_resize

CHANNELS = (3, 32, 64, 64, 32)
STRIDES = (1, 2, 2, 2)
WIDTH = CHANNELS[2] + CHANNELS[3] + 4 * CHANNELS[4]


def layer_weights(seed: int, layer: int) -> np.ndarray:
    """float32 (out, in, 3, 3) of layer 1..4: uniform with He's variance, by counter."""
    fan_in, out = CHANNELS[layer - 1], CHANNELS[layer]
    u = symmetric(seed, layer, np.arange(out * fan_in * 9)).astype(np.float32)
    return (u * np.float32(math.sqrt(6 / (9 * fan_in)))).reshape(out, fan_in, 3, 3)


def side_for(size: tuple[int, int]) -> int:
    """R, the side that pictures (H, W) are resized to: 64 for pictures of at least 64 pixels a side, else 32."""
    return 64 if min(size) >= 64 else 32


class RandomConv:
    """Features of pictures at side R, by the network of one seed."""

    def __init__(self, seed: int = SEED, side: int = 32, device: str | torch.device = "cpu") -> None:
        self.seed, self.side, self.device = seed, side, torch.device(device)
        self.weights = [torch.from_numpy(layer_weights(seed, layer)).to(self.device) for layer in (1, 2, 3, 4)]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) -> float64 (N, 256), computed in float32.

        Layer 2 and layer 3 averaged over space (64 each), then layer 4 on a 2 x 2 grid, channel by channel (128).
        """
        if images.shape[1:3] == (self.side, self.side):
            pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float()
        else:
            pixels = torch.from_numpy(box_resize(images, self.side)).float().to(self.device)
        x = ((pixels / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).contiguous()
        maps: list[Tensor] = []
        # TF32 keeps three digits of a product; the features need five
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for weight, stride in zip(self.weights, STRIDES, strict=True):
                x = F.conv2d(x, weight, stride=stride, padding=1).relu()
                maps.append(x)
        grid = F.adaptive_avg_pool2d(maps[3], 2).flatten(1)
        return torch.cat([maps[1].mean((2, 3)), maps[2].mean((2, 3)), grid], 1).cpu().double().numpy()
