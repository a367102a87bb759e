"""The floor of VAR's sampling: every matrix product, convolution and attention that it must do, at its shape, alone.

Each distinct operation is timed by itself in the same run (smallest of several, CPU seconds), so that the floor is what
this machine needs for the arithmetic alone: no norms, no draws, no memory traffic between operations. A matrix product
meets its weights as a transformer does: each layer has its own, so that they come from memory and not from a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F

from benchmarks.ab import cost


@cache
def weights(k: int, n: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Eight layers' weights of one shape (n, k): more than the caches hold."""
    return [torch.randn(n, k).to(dtype) for _ in range(8)]


@cache
def gemm(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """CPU seconds of (m, k) x (k, n), the mean over layers."""
    x, layers = torch.randn(m, k).to(dtype), weights(k, n, dtype)

    def each() -> None:
        for w in layers:
            F.linear(x, w)

    return cost(each) / len(layers)


@cache
def convolution(batch: int, inner: int, outer: int, side: int, size: int, dtype: torch.dtype) -> float:
    """CPU seconds of a convolution on a side x side map, channels last."""
    x = torch.randn(batch, inner, side, side).to(dtype).to(memory_format=torch.channels_last)
    w = torch.randn(outer, inner, size, size).to(dtype).to(memory_format=torch.channels_last)
    return cost(lambda: F.conv2d(x, w, padding=size // 2))


@cache
def attend(rows: int, heads: int, n: int, t: int, d: int, dtype: torch.dtype) -> float:
    """CPU seconds of attention."""
    q, k, v = (torch.randn(rows, heads, s, d).to(dtype) for s in (n, t, t))
    return cost(lambda: F.scaled_dot_product_attention(q, k, v))


def flops(depth: int, width: int, sides: Sequence[int], vocabulary: int, rows: int) -> dict[str, float]:
    """Counted floating-point operations of the transformer for `rows` rows."""
    total = sum(s * s for s in sides)
    seen, pairs = 0, 0
    for s in sides:
        seen += s * s
        pairs += s * s * seen
    return {
        "blocks": 24.0 * width**2 * total * depth * rows,
        "attention": 4.0 * width * pairs * depth * rows,
        "head": 2.0 * width * vocabulary * total * rows,
    }


def floor(
    batch: int,
    dtype: torch.dtype,
    *,
    depth: int,
    width: int,
    heads: int,
    sides: Sequence[int],
    vocabulary: int,
    latent: int,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
) -> dict[str, object]:
    """CPU seconds of one guided batch: {"trunk": per scale, "head": ..., "decoder": ..., "total": ...}."""
    rows, seen, trunk, head = 2 * batch, 0, [], 0.0
    for side in sides:
        n = side * side
        seen += n
        m = rows * n
        layer = gemm(m, width, 3 * width, dtype) + gemm(m, width, width, dtype) + gemm(m, width, 4 * width, dtype)
        layer += gemm(m, 4 * width, width, dtype) + attend(rows, heads, n, seen, width // heads, dtype)
        trunk.append(depth * layer)
        head += gemm(m, width, vocabulary, torch.float32)

    def conv(inner: int, outer: int, side: int, size: int = 3) -> float:
        return convolution(batch, inner, outer, side, size, dtype)

    widths = [channels * m for m in multipliers]
    top, side = widths[-1], sides[-1]

    def attention(width: int, side: int) -> float:
        return (
            conv(width, 3 * width, side, 1)
            + conv(width, width, side, 1)
            + attend(batch, 1, side * side, side * side, width, dtype)
        )

    decoder = conv(latent, latent, side) + conv(latent, top, side) + 4 * conv(top, top, side) + attention(top, side)
    before = top
    for level in reversed(range(len(widths))):
        for _ in range(blocks + 1):
            decoder += conv(before, widths[level], side) + conv(widths[level], widths[level], side)
            if before != widths[level]:
                decoder += conv(before, widths[level], side, 1)
            before = widths[level]
            if level == len(widths) - 1:
                decoder += attention(before, side)
        if level:
            side *= 2
            decoder += conv(before, before, side)
    decoder += conv(before, 3, side)
    return {"trunk": trunk, "head": head, "decoder": decoder, "total": sum(trunk) + head + decoder}
