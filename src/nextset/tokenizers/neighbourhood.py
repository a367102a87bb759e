"""Which codes of a codebook are near which: distances, nearest neighbours, clusters.

For methods that let one token stand for similar ones: drafts that count as right, tokens predicted group by group, marks
that prefer one of two twins. It knows vectors, not the tokenizer that they belong to, nor what is done with the answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.errors import check_range
from nextset.core.noise import Noise

_ROWS = 2048  # of a distance table that are worked on at once


class Neighbourhood:
    """Neighbourhoods of code vectors (V, C). Distances are squared and Euclidean, in float32."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.float()

    def __len__(self) -> int:
        return len(self.vectors)

    def distances(self, ids: Tensor | None = None) -> Tensor:
        """(n, V) from the codes `ids` (n,) to all; without ids the whole table, V^2 numbers. At least 0, 0 to itself."""
        of = self.vectors if ids is None else self.vectors[ids]
        found = _distances(of, self.vectors)
        own = torch.arange(len(self), device=found.device) if ids is None else ids
        return found.scatter(1, own[:, None], 0.0)

    def nearest(self, k: int) -> Tensor:
        """(V, k) int64: the k other codes that are nearest to each, nearest first, the lower id on ties."""
        check_range("k", k, 1, len(self) - 1, remedy="it counts the other codes")
        parts = []
        for ids in torch.arange(len(self), device=self.vectors.device).split(_ROWS):
            table = self.distances(ids).scatter(1, ids[:, None], torch.inf)
            parts.append(table.argsort(dim=1, stable=True)[:, :k])
        return torch.cat(parts)

    def clusters(
        self, count: int, *, rounds: int = 20, start: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """k-means: (cluster of each code (V,), centres (count, C)).

        start: ids (count,) of the first centres; by default k-means++ (Arthur and Vassilvitskii 2007) with a seed. Each round
        gives every code to the nearest centre, the lower one on ties, and moves centres to the means of theirs; a centre
        without codes stays. Codes are given once more at the end.
        """
        check_range("count", count, 1, len(self), remedy="a cluster has at least one code")
        check_range("rounds", rounds, 0, 10_000)
        centres = self.vectors[self.spread(count, seed) if start is None else start]
        for _ in range(rounds):
            owner = _distances(self.vectors, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add(0, owner, self.vectors)
            held = torch.bincount(owner, minlength=count)[:, None]
            centres = torch.where(held > 0, sums / held.clamp_min(1), centres)
        return _distances(self.vectors, centres).argmin(1), centres

    def spread(self, count: int, seed: int = 0) -> Tensor:
        """(count,) ids by k-means++: each next one is drawn by its squared distance to the nearest before it."""
        u = Noise(seed, "k-means++").uniform(torch.zeros(1, dtype=torch.int64), torch.arange(count))[0].tolist()
        ids = [int(u[0] * len(self))]
        least = self.distances(torch.tensor(ids, device=self.vectors.device))[0].double()
        for x in u[1:]:
            total = least.cumsum(0)
            ids.append(min(int((total <= x * total[-1]).sum()), len(self) - 1))
            least = torch.minimum(least, self.distances(torch.tensor(ids[-1:], device=least.device))[0])
        return torch.tensor(ids, device=self.vectors.device)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) squared distances of vectors (n, C) and (m, C)."""
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2.0).clamp_min(0)
