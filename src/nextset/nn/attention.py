"""The attention kernel. Called by cache policies, and by layers only where a condition is attended to, which has no slots
(everything else goes through `ctx.attend`)."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v for q (rows, H, n, d), k and v (rows, H, t, d) -> (rows, H, n, d).

    mask: bool, True = may attend, broadcastable to (rows, H, n, t). scale: 1/sqrt(d) when None. Keys that were stored in
    another dtype (a policy's choice) are read in the queries' dtype.
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    if q.shape[1] == k.shape[1] and _composed(q, k):
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, torch.finfo(q.dtype).min / 2)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, map_size: tuple[int, int], kernel: int, scale: float | None = None
) -> Tensor:
    """Attention of each cell of a map to a window of kernel x kernel cells: q, k, v (rows, H, h w, d), raster order.

    The map is cut into tiles; a tile of queries attends to the union of its windows and nothing else, so that cost grows
    with the number of cells and not with its square. At borders windows are moved inside (`core.rules.Neighbourhood`).
    """
    (q, k, v), n = (t.unflatten(-2, map_size) for t in (q, k, v)), q.shape[-2]
    out = torch.empty_like(q)
    for rows, columns, ys, xs, mask in _tiles(*map_size, kernel):
        part = q[..., rows, columns, :]
        keys, values = (t[..., ys, xs, :].flatten(-3, -2) for t in (k, v))
        hidden = None if mask is None else mask.to(q.device)
        found = attention(part.flatten(-3, -2), keys, values, hidden, scale)
        out[..., rows, columns, :] = found.unflatten(-2, part.shape[-3:-1])
    return out.reshape(*out.shape[:-3], n, out.shape[-1])


@functools.cache
def _tiles(h: int, w: int, kernel: int) -> list[tuple[slice, slice, slice, slice, Tensor | None]]:
    """Tiles of an h x w map: (rows, columns) of the queries, of the keys, and who sees whom among them (None: all)."""

    def axis(side: int) -> list[tuple[slice, slice, list[list[bool]]]]:
        tile, last = max(kernel // 2, 1), max(side - kernel, 0)
        begins = [min(max(i - kernel // 2, 0), last) for i in range(side)]
        found = []
        for start in range(0, side, tile):
            stop = min(start + tile, side)
            keys = slice(begins[start], min(begins[stop - 1] + kernel, side))
            seen = [
                [begins[i] <= at < begins[i] + kernel for at in range(keys.start, keys.stop)]
                for i in range(start, stop)
            ]
            found.append((slice(start, stop), keys, seen))
        return found

    tiles = []
    for rows, ys, in_y in axis(h):
        for columns, xs, in_x in axis(w):
            everything = all(map(all, in_y)) and all(map(all, in_x))  # type: ignore[arg-type]
            both = torch.tensor(in_y)[:, None, :, None] & torch.tensor(in_x)[None, :, None, :]
            tiles.append((rows, columns, ys, xs, None if everything else both.flatten(2).flatten(0, 1)))
    return tiles


def _composed(q: Tensor, k: Tensor) -> bool:
    """Plain products for training short sequences in bfloat16 on a CPU: there the backward of the fused kernel takes
    twice as long (measured at 64 x 3 heads x 130 rows)."""
    training = torch.is_grad_enabled() and q.requires_grad
    return training and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 512
