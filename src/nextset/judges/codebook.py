"""How evenly a tokenizer uses its codes. Tokens of many pictures are needed: at least 20 a code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nextset.core.errors import NextsetError


@dataclasses.dataclass(frozen=True)
class CodebookUse:
    """counts: int64 (V,). perplexity: how many codes, used evenly, would be as varied, 1..V. position_perplexity: the same
    at each position, (L,) for ids (N, L); None for a flat list of ids."""

    counts: np.ndarray
    perplexity: float
    position_perplexity: np.ndarray | None

    @property
    def n(self) -> int:
        """Ids that were counted; quote it."""
        return int(self.counts.sum())

    @property
    def usage(self) -> float:
        """Share of codes that occur at all."""
        return float((self.counts > 0).mean())

    @property
    def dead(self) -> int:
        return int((self.counts == 0).sum())

    @property
    def possible_usage(self) -> float:
        """The usage to expect of as many ids drawn evenly: what `usage` can reach."""
        return 1 - (1 - 1 / len(self.counts)) ** self.n

    @property
    def enough(self) -> bool:
        """Whether there were the 20 ids a code that make the figures worth quoting."""
        return self.n >= 20 * len(self.counts)


def codebook(ids: np.ndarray, codes: int) -> CodebookUse:
    """Use of a codebook of V = `codes` by ids of any shape, whole numbers in 0..V-1."""
    if not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= codes:
        found = f"{ids.min()}..{ids.max()}" if ids.size else "none"
        raise NextsetError(f"ids are {ids.dtype} {found}, but must be whole numbers in 0..{codes - 1}")
    counts = np.bincount(ids.ravel(), minlength=codes)
    by_position = None
    if ids.ndim > 1:
        columns = ids.reshape(len(ids), -1).T
        by_position = np.array([_perplexity(np.bincount(column, minlength=codes)) for column in columns])
    return CodebookUse(counts, _perplexity(counts), by_position)


def codebook_by_scale(ids: np.ndarray, lengths: Sequence[int], codes: int) -> list[CodebookUse]:
    """Use of the codebook in each scale: ids (N, L), scale after scale; lengths: tokens of each scale, L in all."""
    if ids.ndim != 2 or sum(lengths) != ids.shape[1]:
        raise NextsetError(f"ids are {ids.shape}, but must be (N, {sum(lengths)}), as the lengths {list(lengths)} say")
    return [codebook(part, codes) for part in np.split(ids, np.cumsum(lengths)[:-1], axis=1)]


def _perplexity(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
