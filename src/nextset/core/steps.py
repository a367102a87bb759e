"""Steps: what one forward feeds and draws.

Words: a *slot* is a place of the trunk's sequence with attributes; a *position* is a place of the canvas; a *step* feeds
slots and draws positions; a *row* below is one fed slot of one step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One step, or several joined into one forward.

    index: place in the plan (of the last step, when joined).
    feed: (n,) slots, or (images, n) when the order belongs to the image.
    draw: (m,) positions, or (images, m); may be empty.
    read: (m, taps) index into `feed` from which each position is predicted, one column per tap of the trunk, -1 = none.
    keep: (n,) bool, what these rows stored stays for later steps.
    own: (n,) index of the step that each row belongs to.
    level: (n,) noise level of each row, or (images, n), or None.
    phase: selects blocks, head and guidance. shape: (t, h, w) of the drawn set, or None. ahead: a step that draws nothing
    may run in the forward of the step after it (a clean step, a prefix). parts: the joined steps.
    """

    index: int
    feed: Tensor
    draw: Tensor
    read: Tensor
    keep: Tensor
    own: Tensor
    level: Tensor | None = None
    phase: str = "main"
    shape: tuple[int, int, int] | None = None
    ahead: bool = False
    parts: tuple[Step, ...] = ()

    @classmethod
    def make(
        cls,
        index: int,
        feed: Tensor,
        draw: Tensor | None = None,
        read: Tensor | None = None,
        *,
        keep: bool | Tensor = True,
        ahead: bool = False,
        level: float | Tensor | None = None,
        phase: str = "main",
        shape: tuple[int, int, int] | None = None,
    ) -> Step:
        """A single step. `draw` defaults to nothing, `read` to each fed row predicting the position of its rank."""
        n = feed.shape[-1]
        draw = torch.empty(0, dtype=torch.int64) if draw is None else draw
        if read is None:
            if draw.shape[-1] not in (0, n):
                raise ValueError("read must be given where the numbers of fed slots and drawn positions differ")
            read = torch.arange(draw.shape[-1])[:, None]
        if level is not None and not isinstance(level, Tensor):
            level = torch.full((n,), float(level))
        keep = keep if isinstance(keep, Tensor) else torch.full((n,), keep)
        return cls(index, feed, draw, read, keep, torch.full((n,), index), level, phase, shape, ahead)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The single steps that this forward is made of, in order."""
        return self.parts or (self,)

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of these single steps."""
        return tuple(s.index for s in self.steps)

    @property
    def rows(self) -> int:
        """Number of fed rows."""
        return self.feed.shape[-1]

    @cached_property
    def keeps(self) -> bool:
        """Whether any of its rows stays for later steps."""
        return bool(self.keep.any())

    @cached_property
    def reads_own_rows(self) -> bool:
        """Whether every fed row predicts the position of its own rank, so that nothing needs gathering."""
        return self.read.shape == (self.rows, 1) and bool((self.read[:, 0] == torch.arange(self.rows)).all())

    @cached_property
    def fed(self) -> slice | None:
        """The fed slots where they are consecutive and one order serves all images, else None."""
        return _run(self.feed)

    @cached_property
    def drawn(self) -> slice | None:
        """The drawn positions where they are consecutive and one order serves all images, else None."""
        return _run(self.draw)

    @classmethod
    def joined(cls, parts: tuple[Step, ...]) -> Step:
        """Several single steps as one forward, in the given order."""
        taps = max(p.read.shape[1] for p in parts)
        reads, offset = [], 0
        for p in parts:
            read = torch.where(p.read >= 0, p.read + offset, p.read)
            reads.append(torch.nn.functional.pad(read, (0, taps - read.shape[1]), value=-1))
            offset += p.rows
        has_level = [p.level is not None for p in parts]
        level = None
        if any(has_level):
            level = _cat([p.level if p.level is not None else torch.zeros(p.rows) for p in parts])
        return cls(
            index=parts[-1].index,
            feed=_cat([p.feed for p in parts]),
            draw=_cat([p.draw for p in parts]),
            read=torch.cat(reads),
            keep=torch.cat([p.keep for p in parts]),
            own=torch.cat([p.own for p in parts]),
            level=level,
            phase=parts[-1].phase,
            shape=None,
            parts=parts,
        )


def _run(places: Tensor) -> slice | None:
    """Consecutive rising places (n,) as a slice, else None."""
    if places.dim() != 1 or not len(places):
        return None
    first, end = int(places[0]), int(places[0]) + len(places)
    return slice(first, end) if torch.equal(places, torch.arange(first, end)) else None


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the last axis; orders of one image and shared orders may meet."""
    images = max((t.shape[0] for t in tensors if t.dim() == 2), default=None)
    if images is not None:
        tensors = [t if t.dim() == 2 else t.expand(images, -1) for t in tensors]
    return torch.cat(list(tensors), -1)
