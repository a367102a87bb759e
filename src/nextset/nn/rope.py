"""Rotary position embedding with coordinates as input: nothing here knows a grid or a sequence."""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(count: int, base: float = 10000.0) -> Tensor:
    """(count,) float32: base ** (-j / count), the angles per unit of coordinate."""
    return base ** (-torch.arange(count, dtype=torch.float64) / count).float()


def angles(coordinates: Tensor, freqs: Tensor) -> Tensor:
    """coordinates (n, axes), freqs (pairs / axes,) -> (n, pairs): each axis turns its own run of channel pairs."""
    return (coordinates.float()[..., None] * freqs).flatten(-2)


def turns(angle: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) of angles, made once for all layers of a forward."""
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate adjacent channel pairs of x (rows, H, n, d) by (cos, sin), each (n, d / 2) or (rows, 1, n, d / 2)."""
    # as one complex product: four products and a sum of halves take three times as long on a CPU, backward included
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(*turn)).flatten(-2).to(x.dtype)


class Turns:
    """Rotary tables of all slots of a plan. Not of any row: what selects rows leaves them alone."""

    __slots__ = ("cos", "sin")

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos, sin

    def at(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin) of the fed slots (n,), each (n, d / 2)."""
        return self.cos.index_select(0, slots), self.sin.index_select(0, slots)
