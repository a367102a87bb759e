"""What a comparison says: figures that can be quoted, each with its numbers of pictures and its floor.

A report names everything that its figures depend on: how many pictures, the checksum of the pixels as they were decoded,
the seeds and the side of the random networks, and the set whose scale and axes were used. It computes nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nextset.judges.memorisation import Memorisation


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number. n, n_reference: pictures of either set that it was made of. floor: what two samples of one source get
    at these numbers (for a share or a ratio: what real pictures get); None where it is not known. note: how to read
    it."""

    judge: str
    value: float
    n: int
    n_reference: int
    floor: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Side:
    """One set as it was judged: `n` of its `of` pictures; crc32 of their pixels in the order of judging."""

    name: str
    n: int
    of: int
    crc32: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Set a against set b. size: (H, W). side: R of the random networks. basis: the set of scale and axes, and its number of
    pictures. curve_db: power of a over that of b at radius 1..H/2. memorisation: the search itself, for a contact sheet."""

    a: Side
    b: Side
    size: tuple[int, int]
    side: int
    seeds: tuple[int, ...]
    basis: str
    decoder: str
    figures: list[Figure]
    notes: list[str]
    curve_db: list[float] | None = None
    memorisation: Memorisation | None = None

    def __getitem__(self, judge: str) -> Figure:
        return {figure.judge: figure for figure in self.figures}[judge]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the search, whose arrays are as long as A."""
        values = dataclasses.asdict(dataclasses.replace(self, memorisation=None))
        del values["memorisation"]
        return values
