"""Perceptual distances: differences of features, not of pixels. Images (B, 3, H, W) in [-1, 1] -> scalar.

`RandomFeatures` needs no download; `Lpips` is the learned measure, when its two weight files are given.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.unpickle import flatten, read_torch


def _unit(features: Tensor, eps: float) -> Tensor:
    """Each cell's channels at length 1."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + eps)


class RandomFeatures(nn.Module):
    """Squared differences of unit-length features of a fixed random network, summed over its layers.

    Random 3x3 filters with ReLU answer to edges, corners and local contrast; normalised over channels, they weigh a
    faint texture as much as a strong one, which pixels do not. Four layers of strides 1, 2, 2, 2; He-scaled weights are
    a function of `seed`, the same everywhere. It has no parameters and nothing of it is saved.
    """

    def __init__(self, seed: int = 0, widths: tuple[int, ...] = (24, 48, 96, 96)) -> None:
        super().__init__()
        noise = Noise(seed, "random-features")
        self.strides = (1, *[2] * (len(widths) - 1))
        for i, (inner, outer) in enumerate(zip((3, *widths), widths, strict=False)):
            z = noise.of(str(i)).normal(torch.arange(outer), torch.arange(inner * 9)).view(outer, inner, 3, 3)
            if i == 0:  # filters without mean see structure and no brightness
                z = z - z.mean((1, 2, 3), keepdim=True)
            self.register_buffer(f"weight_{i}", z * math.sqrt(2 / (9 * inner)), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of each layer."""
        x, found = images, []
        for i, stride in enumerate(self.strides):
            x = F.relu(F.conv2d(x, getattr(self, f"weight_{i}").to(x.dtype), stride=stride, padding=1))
            found.append(x)
        return found

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        total = output.new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            wanted = self.features(images)
        for a, b in zip(self.features(output), wanted, strict=True):
            total = total + (_unit(a.float(), 1e-2) - _unit(b.float(), 1e-2)).square().sum(1).mean()
        return total / len(self.strides)


class Lpips(nn.Module):
    """LPIPS on VGG-16: unit features after five ReLUs, squared differences, learned non-negative channel weights.

    vgg: torchvision's file of VGG-16 (`vgg16-397923af.pth`); heads: the `vgg.pth` of LPIPS v0.1. Both are read safely
    and never published with a model. Source: Zhang et al. 2018 (arXiv 1801.03924).
    """

    # index of each convolution among torchvision's `features`; a stage ends before a pooling
    STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    CHANNELS = (64, 128, 256, 512, 512)

    shift: Tensor
    scale: Tensor

    def __init__(self, vgg: str | Path, heads: str | Path) -> None:
        super().__init__()
        body, lines = flatten(read_torch(vgg)), flatten(read_torch(heads))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        inner = 3
        for stage, (indices, outer) in enumerate(zip(self.STAGES, self.CHANNELS, strict=True)):
            for i in indices:
                self._take(vgg, body, f"features.{i}.weight", f"weight_{i}", (outer, inner, 3, 3))
                self._take(vgg, body, f"features.{i}.bias", f"bias_{i}", (outer,))
                inner = outer
            self._take(heads, lines, f"lin{stage}.model.1.weight", f"head_{stage}", (1, outer, 1, 1))

    def _take(self, path: str | Path, state: dict[str, Tensor], key: str, name: str, shape: tuple[int, ...]) -> None:
        if key not in state or tuple(state[key].shape) != shape:
            have = tuple(state[key].shape) if key in state else "missing"
            raise NextsetError(
                f"{path}: {key} is {have}, but must be {shape}; give the files of VGG-16 and of LPIPS' heads"
            )
        self.register_buffer(name, state[key].detach().float().clone(), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps at the end of each stage."""
        x, found = (images - self.shift) / self.scale, []
        for stage, indices in enumerate(self.STAGES):
            if stage:
                x = F.max_pool2d(x, 2)
            for i in indices:
                x = F.relu(F.conv2d(x, getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}"), padding=1))
            found.append(x)
        return found

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        total = output.new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            wanted = self.features(images)
        for stage, (a, b) in enumerate(zip(self.features(output), wanted, strict=True)):
            squares = (_unit(a.float(), 1e-10) - _unit(b.float(), 1e-10)).square()
            total = total + (squares * getattr(self, f"head_{stage}")).sum(1).mean()
        return total
