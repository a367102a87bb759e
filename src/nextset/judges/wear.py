"""Pictures as if a tokenizer or a bad copy had worn them: softer, blotched, grainy, with lost detail in blocks.

For training judges that must read made pictures. Every draw is a function of (seed, sample index).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Noise

_TEXTURE = 128  # side of the grain; every sample sees another piece of it
_BLOCK, _BLOTCHES = 8, 8


class Wear:
    """Images (B, 3, H, W) in [-1, 1] -> the same, worn. strength: 0 leaves them as they are, 1 is what tokenizers do at
    their worst, 2 twice that. Each kind of wear is drawn by itself, and weak ones are frequent."""

    def __init__(self, noise: Noise, strength: float = 1.0) -> None:
        self.noise, self.strength = noise, strength
        grain = noise.of("texture").uniform(torch.tensor([0]), torch.arange(_TEXTURE**2), lanes=3)[0]
        self._grain = (grain * 2 - 1).T.reshape(3, _TEXTURE, _TEXTURE)
        k, n = torch.arange(_BLOCK)[:, None], torch.arange(_BLOCK)[None]
        cosines = torch.cos(math.pi * (2 * n + 1) * k / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
        self._cosines = torch.where(k == 0, torch.full_like(cosines, math.sqrt(1 / _BLOCK)), cosines)

    def __call__(self, images: Tensor, samples: Tensor) -> Tensor:
        if not self.strength:
            return images
        u = self.noise.of("amounts").uniform(samples, torch.arange(6))
        soft, blotched, grainy, lost = ((u[:, i] ** 2 * self.strength)[:, None, None, None] for i in range(4))
        x = torch.lerp(images, _soft(_soft(images)), soft.clamp_max(1))
        places = torch.arange(_BLOTCHES**2)
        low = self.noise.of("blotches").uniform(samples, places, lanes=3).transpose(1, 2) * 2 - 1
        low = low.reshape(len(x), 3, _BLOTCHES, _BLOTCHES)
        x = x + 0.25 * blotched * F.interpolate(low, x.shape[-2:], mode="bilinear")
        x = x + 0.35 * grainy * self._pieces(u[:, 4:], *x.shape[-2:])
        return self._in_blocks(x, 0.05 + 0.4 * lost).clamp(-1, 1)

    def _pieces(self, u: Tensor, h: int, w: int) -> Tensor:
        corner = (u * _TEXTURE).long()
        rows = (corner[:, :1] + torch.arange(h)) % _TEXTURE
        columns = (corner[:, 1:] + torch.arange(w)) % _TEXTURE
        return self._grain[:, rows[:, :, None], columns[:, None]].transpose(0, 1)

    def _in_blocks(self, x: Tensor, step: Tensor) -> Tensor:
        """Coefficients of a cosine transform in blocks, rounded to multiples of `step` (B, 1, 1, 1); sides that are no
        multiple of the block stay as they are."""
        n, _, h, w = x.shape
        if h % _BLOCK or w % _BLOCK:
            return x
        blocks = x.reshape(n, 3, h // _BLOCK, _BLOCK, w // _BLOCK, _BLOCK).transpose(3, 4)
        basis, width = self._cosines, step[..., None, None]
        rounded = (basis @ blocks @ basis.T / width).round() * width
        return (basis.T @ rounded @ basis).transpose(3, 4).reshape(n, 3, h, w)


def _soft(x: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / 3
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 3
