"""Critics: networks that tell made pictures from real ones, and the losses of that game.

Shapes: images (B, 3, H, W) in [-1, 1] -> scores (B, 1, h, w), one for each patch; higher = taken for real.
Source: PatchGAN of Isola et al. 2017 (arXiv 1611.07004); hinge losses of Lim and Ye 2017 (arXiv 1705.02894).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError


class PatchCritic(nn.Module):
    """4x4 convolutions of stride 2, then two of stride 1; widths double up to eight times the first.

    GroupNorm stands where the original has BatchNorm: its answer for a picture does not depend on the others of the
    batch, so that one process and several see the same game. `layers` of stride 2: three for 256 pixels, two for 64 and
    less.
    """

    def __init__(self, channels: int = 64, layers: int = 3, groups: int = 8) -> None:
        super().__init__()
        self.least = 3 * 2**layers
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(layers):
            stride = 2 if i < layers - 1 else 1
            body += [
                nn.Conv2d(widths[i], widths[i + 1], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(groups, widths[i + 1]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.least:
            raise NextsetError(
                f"the critic needs pictures of {self.least} pixels a side, but gets {min(images.shape[-2:])}; take fewer critic_layers"
            )
        return self.body(images)


def critic_hinge(real: Tensor, made: Tensor) -> Tensor:
    """The critic's loss: real scores above 1, made ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def generator_hinge(made: Tensor) -> Tensor:
    """The generator's loss: scores as high as can be."""
    return -made.mean()
