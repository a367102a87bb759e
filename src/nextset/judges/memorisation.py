"""Does a generator repeat its training pictures? Exact search for the nearest one, at 16 x 16 pixels.

A distance means nothing by itself: it is compared with the distances of real pictures that the training set does not
hold (`Usual`). Mirrored training pictures are searched as well, because training may have mirrored them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from nextset.core.errors import NextsetError
from nextset.judges.degradations import mirror
from nextset.judges.pixels import box_resize

SIDE = 16
QUERIES = 2000
COPY = 8  # grey levels
ALARM = 0.03


def thumbnails(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float64 (N, side * side * 3), grey levels.

    Grey levels, not shares of 255: where the side divides H and W by a power of two, all sums of squares are exact.
    """
    return box_resize(images, side).reshape(len(images), -1)


class Nearest:
    """The nearest of a stream of pictures for each query (Q, D), by root mean square difference.

    own: (Q,) the place in the stream that a query itself has, and which does not count; -1 where it has none.
    """

    def __init__(self, queries: np.ndarray, own: np.ndarray | None = None) -> None:
        self._queries = queries
        self._own = np.full(len(queries), -1) if own is None else own
        self._squares = (queries**2).sum(1)
        self._best = np.full(len(queries), np.inf)
        self.index = np.full(len(queries), -1)
        self._seen = 0

    def add(self, pictures: np.ndarray) -> None:
        """The next pictures of the stream: (N, D), as the queries are."""
        squared = self._squares[:, None] + (pictures**2).sum(1) - 2 * (self._queries @ pictures.T)
        inside = (self._own >= self._seen) & (self._own < self._seen + len(pictures))
        squared[np.flatnonzero(inside), self._own[inside] - self._seen] = np.inf
        column = squared.argmin(1)
        value = squared[np.arange(len(column)), column]
        better = value < self._best  # at equal distance the first of the stream stays
        self._best[better] = value[better]
        self.index[better] = column[better] + self._seen
        self._seen += len(pictures)

    @property
    def distance(self) -> np.ndarray:
        """(Q,) root mean square difference to the nearest, in shares of 255."""
        return np.sqrt(np.clip(self._best, 0, None) / self._queries.shape[1]) / 255


@dataclasses.dataclass(frozen=True)
class Usual:
    """Distances of real pictures from the training set: first percentile and median. source: which pictures."""

    p1: float
    median: float
    count: int
    source: str

    @classmethod
    def of(cls, distance: np.ndarray, source: str) -> Usual:
        return cls(float(np.percentile(distance, 1)), float(np.median(distance)), len(distance), source)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One search. near: share of pictures nearer than 99 % of real ones are; 0.01 is usual. ratio: of the medians; 1 is
    usual. copies: share whose neighbour differs by at most 8 grey levels everywhere, at full size."""

    near: float
    ratio: float
    copies: float


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """plain and mirrored: what was found in the training pictures as they are, and mirrored. index, distance, flipped:
    the nearest over both, for each picture."""

    plain: Pass
    mirrored: Pass
    usual: Usual
    index: np.ndarray
    distance: np.ndarray
    flipped: np.ndarray

    @property
    def alarm(self) -> bool:
        """Whether the generator repeats training pictures: more than 3 % near, or a single copy, in either search."""
        return any(p.near > ALARM or p.copies > 0 for p in (self.plain, self.mirrored))

    def closest(self, count: int = 16) -> np.ndarray:
        """Pictures nearest to a training picture, nearest first: their indices."""
        return np.argsort(self.distance, kind="stable")[:count]


class Search:
    """Both searches in one stream: of each picture, and of its mirror image (which finds mirrored neighbours)."""

    def __init__(self, queries: np.ndarray) -> None:
        """queries: uint8 (Q, H, W, 3)."""
        self._images = queries
        self._nearest = Nearest(np.concatenate([thumbnails(queries), thumbnails(mirror(queries))]))

    def add(self, images: np.ndarray) -> None:
        """The next training pictures, uint8 (N, H, W, 3)."""
        if images.shape[1:] != self._images.shape[1:]:
            have = f"{images.shape[1:3]} and {self._images.shape[1:3]}"
            raise NextsetError(f"pictures are of sizes {have}, but must be of one size; judge both with --size")
        self._nearest.add(thumbnails(images))

    @property
    def distances(self) -> np.ndarray:
        """(2, Q): to the nearest picture so far, and to the nearest mirrored one."""
        return self._nearest.distance.reshape(2, -1)

    def finish(self, usual: Usual, read: Callable[[np.ndarray], np.ndarray]) -> Memorisation:
        """read: pictures of the stream, uint8 (n, H, W, 3), by their places in it (n,)."""
        q = len(self._images)
        index, distance = self._nearest.index.reshape(2, q), self.distances
        passes = []
        for which, view in ((0, self._images), (1, mirror(self._images))):
            d = distance[which]
            copies = 0
            suspects = np.flatnonzero(d <= COPY / 255)  # an average cannot differ by more than the pixels do
            for start in range(0, len(suspects), 256):
                some = suspects[start : start + 256]
                gap = np.abs(view[some].astype(np.int16) - read(index[which][some]))
                copies += int((gap.max(axis=(1, 2, 3)) <= COPY).sum())
            passes.append(Pass(float((d < usual.p1).mean()), float(np.median(d)) / usual.median, copies / q))
        flipped = distance[1] < distance[0]
        at = (flipped.astype(np.int64), np.arange(q))
        return Memorisation(passes[0], passes[1], usual, index[at], distance[at], flipped)
