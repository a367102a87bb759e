"""Rotary position embedding with coordinates as input: nothing here knows a grid or a sequence."""

from __future__ import annotations

import functools
import operator
from functools import cached_property

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


def rotate(x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotate adjacent channel pairs of x (rows, H, n, d) by (cos, sin), each (n, d / 2) or (rows, 1, n, d / 2); by nothing
    where positions are told otherwise (None)."""
    if turn is None:
        return x
    pairs = x.float().view(*x.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():  # which fuses real products, and no complex ones
        (cos, sin), (first, second) = turn, pairs.unbind(-1)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2).to(x.dtype)
    # as one complex product: four products and a sum of halves take three times as long on a CPU, backward included
    if pairs.storage_offset() % 2:
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    elif torch.is_grad_enabled() or _odd(*pairs.stride()):
        pairs = pairs.contiguous()
    both = turn.both if isinstance(turn, Turn) else torch.complex(*turn)
    return torch.view_as_real(torch.view_as_complex(pairs) * both).flatten(-2).to(x.dtype)


def _odd(*strides: int) -> bool:
    """Whether pairs of channels are torn apart or begin at odd places, as no complex number may."""
    return strides[-1] != 1 or bool(functools.reduce(operator.or_, strides[:-1]) & 1)


class Turn(tuple[Tensor, Tensor]):
    """(cos, sin) of the rows of a forward, and both as one complex number, which every layer asks for."""

    @cached_property
    def both(self) -> Tensor:
        return torch.complex(*self)


class Turns:
    """Rotary tables of all slots of a plan. Not of any row: what selects rows leaves them alone."""

    __slots__ = ("cos", "sin")

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos, sin

    def at(self, slots: Tensor) -> Turn:
        """(cos, sin) of the fed slots (n,), each (n, d / 2)."""
        return Turn((self.cos.index_select(0, slots), self.sin.index_select(0, slots)))
