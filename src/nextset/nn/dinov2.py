"""The vision transformer of DINOv2: patches behind a class token, pre-norm blocks with layer scale, learned positions that
are resized to the picture.

It attends to a picture alone, all rows at once, so it needs neither plan nor context. Source: Oquab et al. 2023
(arXiv 2304.07193); sheet `just_zoom_in`, Model.

Shapes: images (B, 3, H, W), normalised as the weights want them (`nn.encoders` does); x (B, 1 + h w, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.nn.vit import ViTBlock

EPS = 1e-6


class DinoBlock(ViTBlock):
    """x + s1 attn(norm1(x)), then x + s2 mlp(norm2(x)); s1 and s2 are learned vectors."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, eps=EPS)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1 * self.attn(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class DinoV2(nn.Module):
    """Images -> the class token behind the last norm, (B, D).

    grid: side, in patches, of the pictures that its positions were learned on. Patches that a picture does not fill to the
    end are left out, as the stride does.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int, grid: int, mlp_ratio: float) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = nn.ModuleList(DinoBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images.to(self.patches.weight.dtype))
        x = torch.cat([self.cls.expand(len(cells), -1, -1), cells.flatten(2).transpose(1, 2)], 1)
        x = x + self.positions(cells.shape[-2:]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def positions(self, sides: tuple[int, int]) -> Tensor:
        """Positions (1, 1 + h w, D) of a picture of h x w patches: bicubic, by size, without antialias."""
        if tuple(sides) == (self.grid, self.grid):
            return self.position
        table = self.position[:, 1:].float().unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=sides, mode="bicubic", align_corners=False)
        return torch.cat([self.position[:, :1].float(), table.flatten(2).transpose(1, 2)], 1)

    def freeze(self, trained: int) -> None:
        """Train the last `trained` blocks and the norm behind them, and nothing else."""
        self.requires_grad_(False)
        for part in (self.norm, *self.blocks[len(self.blocks) - trained :]):
            part.requires_grad_(True)
