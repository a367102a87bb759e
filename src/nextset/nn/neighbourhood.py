"""Attention of each cell of a map to a window around it, at a cost that grows with the number of cells.

Queries are gathered in tiles; a tile attends to the smallest block of cells that holds all its windows. All tiles are one
call of the kernel, with a mask inside a block. A map that is hardly larger than such a block is attended to whole, under
the mask of its windows: gathering would cost more than it saves.

Windows at borders are moved inside, so that each has kernel x kernel cells (`core.rules.Neighbourhood`).
Source: Hassani et al. 2023, "Neighborhood Attention Transformer" (arXiv 2204.07143), section 3.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from nextset.nn.attention import attention


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, map_size: tuple[int, int], kernel: int, scale: float | None = None
) -> Tensor:
    """q, k, v (rows, H, h w, d) in raster order of a map of h x w cells -> (rows, H, h w, d).

    kernel: odd side of the window; at least as large as the map it is full attention. scale: as in `attention`.
    """
    tiles = _tiles(*map_size, kernel, q.device)
    if len(tiles.queries) == 1:
        return attention(q, k, v, tiles.mask[0], scale)
    rows, heads, _, width = q.shape
    # a tile is a head of its own: (rows, H tiles, cells, d)
    parts = [t[:, :, at].flatten(1, 2) for t, at in ((q, tiles.queries), (k, tiles.keys), (v, tiles.keys))]
    mask = tiles.mask.repeat(heads, 1, 1)
    out = attention(parts[0], parts[1], parts[2], mask, scale)
    return out.reshape(rows, heads, -1, width)[:, :, tiles.back]


class _Tiles(NamedTuple):
    """Cells of T tiles: queries (T, t), keys (T, u), who sees whom (T, t, u), and where each cell's answer is (h w,)."""

    queries: Tensor
    keys: Tensor
    mask: Tensor
    back: Tensor


@functools.cache
def _tiles(h: int, w: int, kernel: int, device: torch.device) -> _Tiles:
    """Tiles of kernel + 1 cells a side where they halve the scores at least, else the whole map as one."""
    cut = [_axis(side, kernel, kernel + 1) for side in (h, w)]
    scores = [tile.numel() * block.shape[1] for tile, block, _ in cut]
    if 2 * scores[0] * scores[1] > (h * w) ** 2:
        cut = [_axis(side, kernel, side) for side in (h, w)]
    (qy, ky, sy), (qx, kx, sx) = cut
    queries, keys = ((y[:, None, :, None] * w + x[:, None]).flatten(2).flatten(0, 1) for y, x in ((qy, qx), (ky, kx)))
    mask = (sy[:, None, :, None, :, None] & sx[:, None, :, None, :]).flatten(4).flatten(2, 3).flatten(0, 1)
    back = torch.empty(h * w, dtype=torch.int64)
    back[queries.flatten()] = torch.arange(queries.numel())  # a cell that fills up a tile is answered twice, alike
    return _Tiles(*(t.to(device) for t in (queries, keys, mask, back)))


def _axis(side: int, kernel: int, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: queries (T, tile), keys (T, u), and who sees whom (T, tile, u). A last tile that sticks out ends
    with copies of the last cell."""
    tile = min(tile, side)
    queries = torch.arange(-(-side // tile) * tile).clamp_max(side - 1).view(-1, tile)
    begins = (queries - kernel // 2).clamp(0, max(side - kernel, 0))
    span = min(tile + kernel - 1, side)
    keys = begins[:, :1].clamp_max(side - span) + torch.arange(span)
    seen = (keys[:, None] >= begins[..., None]) & (keys[:, None] < begins[..., None] + kernel)
    return queries, keys, seen
