"""Views: what one forward reads and writes of a store addressed by slot, and the rows that a mask rule speaks of.

`Plan.view` makes them; memory policies and the context read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nextset.core.steps import Step


class Attributes:
    """Attributes of rows, by name, shaped so that queries and keys broadcast against each other.

    Beside the plan's slot attributes there are `slot`, `step` (the row's own step) and `level` (its noise level).
    """

    def __init__(self, values: Mapping[str, Tensor], axis: int) -> None:
        self._values, self._axis = values, axis

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self._values[name].unsqueeze(self._axis)
        except KeyError:
            raise AttributeError(f"rows have no attribute {name!r}; known: {', '.join(self._values)}") from None


Sees = Callable[[Attributes, Attributes], Tensor]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows as the mask rule knows them: slot (..., n), own step (n,), kept (n,), level (..., n) or None."""

    slot: Tensor
    step: Tensor
    keep: Tensor
    level: Tensor | None

    @classmethod
    def of(cls, step: Step) -> Rows:
        return cls(step.feed, step.own, step.keep, step.level)

    def level_or_zero(self) -> Tensor:
        return torch.zeros(self.slot.shape[-1]) if self.level is None else self.level


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What one forward reads and writes, in terms of a store addressed by slot.

    slots: (n,) or (images, n), where the fed rows are stored. start: first of them when they are consecutive, else None.
    end: stored slots 0 <= s < end are offered as keys. mask: None when each fed row sees all of them, else bool
    (n, keys) or (images, 1, n, keys), True = may attend. appended: the fed rows are not in the store but follow its
    `end` rows as extra keys (a slot fed twice in this forward, or rows that must not touch what is stored).
    before: stored slots 0 <= s < before hold something when this forward begins.
    """

    slots: Tensor
    start: int | None
    end: int
    mask: Tensor | None
    appended: bool
    keep: Tensor
    keeps_all: bool
    keeps_none: bool
    before: int

    def to(self, device: Any) -> View:
        """The same view with its tensors on a device."""
        return dataclasses.replace(
            self,
            slots=self.slots.to(device),
            keep=self.keep.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A step of a forward that sees itself alone, so that it may be attended to alone.

    rows: how many. window: ((h, w), kernel) where they are one map of which each row sees a window. mask: (rows, rows) bool
    where rows see something else of their step, None where they see all of it.
    """

    rows: int
    window: tuple[tuple[int, int], int] | None
    mask: Tensor | None
