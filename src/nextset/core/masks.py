"""Masks of what is given: boxes in fractions of an image, and one mask as it looks at every scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.errors import NextsetError

Box = tuple[float, float, float, float]


def box_mask(box: Box, side: tuple[int, int], *, keep: str) -> Tensor:
    """Float mask (h, w), 1 = given. box: (y0, x0, y1, x1) in [0, 1]; keep "inside" (out-painting) or "outside" (in-painting).

    Edges fall on cells by Python's round, half to even.
    """
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1):
        raise NextsetError(f"box is {tuple(box)}, but must be y0,x0,y1,x1 with 0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1")
    h, w = side
    mask = torch.zeros(h, w)
    mask[round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)] = 1
    return mask if keep == "inside" else 1 - mask


def pyramid_mask(mask: Tensor, sides: Sequence[tuple[int, int]], *, always: int = 0) -> Tensor:
    """One mask (h, w) at every scale: (L,) bool, True = given where more than half is (bilinear).

    always: scales of up to that many cells are given whole.
    """
    parts = []
    for h, w in sides:
        small = F.interpolate(mask[None, None].float(), size=(h, w), mode="bilinear", align_corners=False)
        parts.append(torch.ones(h * w, dtype=torch.bool) if h * w <= always else small.flatten() > 0.5)
    return torch.cat(parts)
