"""Plans: in which order a generation feeds slots and draws positions, and who sees whom.

A plan is data, complete before a run begins. It knows neither network nor cache: `Plan.view(step)` says, for one
forward, which stored rows it reads and which of them each fed row may see. There is one rule of visibility for every
system here (`visible`), whether a forward is one step, several joined, or all of them at once (teacher forcing).

Words: a *slot* is a place of the trunk's sequence with attributes; a *position* is a place of the canvas; a *step* feeds
slots and draws positions; a *row* below is one fed slot of one step.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError


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
class Plan:
    """All steps of one generation, its slots with their attributes, and the rule `sees`.

    slots: attribute name -> (S,) tensor. sees(q, k) -> bool tensor over attributes of query and key rows, or None when
    history alone decides. positions: number of canvas positions.
    """

    slots: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    positions: int
    sees: Sees | None = None
    name: str = "plan"

    def __post_init__(self) -> None:
        for i, step in enumerate(self.steps):
            if step.index != i:
                raise ValueError(f"step {i} of plan {self.name} says that its index is {step.index}")

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def size(self) -> int:
        """Number of slots."""
        return (
            next(iter(self.slots.values())).shape[0] if self.slots else 1 + max(int(s.feed.max()) for s in self.steps)
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of slots and steps: two plans with the same one store and see alike (up to `sees`)."""
        h = hashlib.sha256(self.name.encode())
        for name in sorted(self.slots):
            h.update(name.encode() + self.slots[name].cpu().numpy().tobytes())
        for s in self.steps:
            for t in (s.feed, s.draw, s.read, s.keep, torch.zeros(0) if s.level is None else s.level):
                h.update(repr(tuple(t.shape)).encode() + t.cpu().numpy().tobytes())
        return h.hexdigest()[:16]

    def join(self, steps: Iterable[Step | int]) -> Step:
        """Several steps as one forward, in the given order; the inputs of all of them must be known.

        The same steps give the same object again: views are cached by step, and training joins the plan at every step.
        """
        parts = tuple(p for s in steps for p in (self.steps[s] if isinstance(s, int) else s).steps)
        if not parts:
            raise NextsetError("a join of no steps was asked for; name at least one step of the plan")
        if len(parts) == 1:
            return parts[0]
        if parts not in self._joins:
            self._joins[parts] = self._join(parts)
        return self._joins[parts]

    @cached_property
    def _joins(self) -> dict[tuple[Step, ...], Step]:
        return {}

    def _join(self, parts: tuple[Step, ...]) -> Step:
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
        return Step(
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

    def select(self, rows: Tensor) -> Plan:
        """The plan when entry i continues entry rows[i]; itself, unless orders or levels belong to the image."""

        def own(t: Tensor) -> Tensor:
            return t if t.dim() == 1 else t[rows]

        if all(t is None or t.dim() == 1 for s in self.steps for t in (s.feed, s.draw, s.level)):
            return self
        steps = tuple(
            dataclasses.replace(s, feed=own(s.feed), draw=own(s.draw), level=None if s.level is None else own(s.level))
            for s in self.steps
        )
        return dataclasses.replace(self, steps=steps)

    def all(self) -> Step:
        """Every step joined: teacher forcing."""
        return self.join(self.steps)

    # ---- who sees whom

    @cached_property
    def _fed(self) -> Tensor:
        """(images, steps, S) bool: slot is fed in step; one image stands for all where orders are shared."""
        return self._table(lambda s: torch.ones(s.rows, dtype=torch.bool))

    @cached_property
    def _kept(self) -> Tensor:
        """(images, steps, S) bool: slot is fed and kept in step."""
        return self._table(lambda s: s.keep)

    @cached_property
    def _next_kept(self) -> Tensor:
        """(images, steps, S) the first step after each in which a slot is kept, or the number of steps."""
        kept = torch.where(self._kept, torch.arange(len(self.steps))[:, None], len(self.steps))
        return _shift(kept.flip(1).cummin(1).values.flip(1), -1, len(self.steps))

    @cached_property
    def _last_kept(self) -> Tensor:
        """(images, steps, S) the last step before each in which a slot is kept, or -1."""
        return _shift(torch.where(self._kept, torch.arange(len(self.steps))[:, None], -1).cummax(1).values, 1, -1)

    @cached_property
    def _levels(self) -> Tensor | None:
        """(images, steps, S) noise level with which a slot was fed in a step, or None when no step has levels."""
        if all(s.level is None for s in self.steps):
            return None
        return self._table(lambda s: torch.zeros(s.rows) if s.level is None else s.level)

    def _table(self, value: Callable[[Step], Tensor]) -> Tensor:
        """Values (n,) of the fed rows of each step, laid out by slot: (images, steps, S), zero where nothing is fed."""
        values = [value(s) for s in self.steps]
        images = max((t.shape[0] for t in (*values, *(s.feed for s in self.steps)) if t.dim() == 2), default=1)
        table = torch.zeros(images, len(self.steps), self.size, dtype=values[0].dtype if values else torch.bool)
        for s, v in zip(self.steps, values, strict=True):
            feed = s.feed.expand(images, -1)
            table[:, s.index].scatter_(1, feed, v.expand(feed.shape))
        return table

    def attributes(self, slot: Tensor, step: Tensor, level: Tensor | None) -> dict[str, Tensor]:
        """Attribute values of rows given by slot, own step and level: (n,), or (images, n) where images differ."""
        values = {name: value[slot] for name, value in self.slots.items()}
        return values | {"slot": slot, "step": step, "level": torch.zeros(slot.shape[-1]) if level is None else level}

    def visible(self, q: Rows, k: Rows, sees: Sees | None = None) -> Tensor:
        """The one mask rule: bool (..., n_q, n_k), True where query row a may see key row b.

        a sees b iff `sees(a, b)` and (b is fed in a's own step, or b is the latest kept feed of its slot before that
        step and the slot is not fed again in it).
        """
        own = q.step[..., :, None] == k.step[..., None, :]
        until = _pick(self._next_kept, k.step, k.slot, 1)  # up to there a key is the latest of its slot
        later = q.step[..., :, None] > k.step[..., None, :]
        latest = q.step[..., :, None] <= until[..., None, :]
        again = _pick(self._fed, q.step[:, None], k.slot[..., None, :], 2)
        history = later & latest & k.keep[..., None, :] & ~again
        mask = own | history
        rule = sees or self.sees
        if rule is not None:
            mask = mask & rule(
                Attributes(self.attributes(q.slot, q.step, q.level), -1),
                Attributes(self.attributes(k.slot, k.step, k.level), -2),
            )
        return mask

    def mask(self, step: Step, sees: Sees | None = None) -> Tensor:
        """Visibility among the rows of one forward that begins with nothing stored: bool (..., n, n)."""
        rows = Rows.of(step)
        return self.visible(rows, rows, sees)

    def stored_before(self, step: Step) -> tuple[Tensor, Tensor]:
        """What is stored when a forward begins: own step of the latest kept feed of each slot, and bool whether there is
        any; (S,) each, or (images, S) where orders differ."""
        last = self._last_kept[:, min(step.indices)]
        last = last.squeeze(0) if last.shape[0] == 1 else last
        return last.clamp_min(0), last >= 0

    @cached_property
    def _views(self) -> dict[Any, tuple[View, Any]]:
        return {}

    def view(
        self, step: Step, sees: Sees | None = None, *, stored: bool = True, append: bool = False, device: Any = "cpu"
    ) -> View:
        """How a store addressed by slot serves this forward; computed once per step object.

        stored=False: nothing is stored, the fed rows are all there is. append=True: the fed rows must not enter the
        store, so that they follow it as extra keys (branches that read another's memory).
        """
        key = (id(step), id(sees), stored, append, str(device))
        if key not in self._views:
            # the step and rule are kept with the view: their ids must not be reused while it lives
            self._views[key] = (self._view(step, sees, stored, append).to(device), (step, sees))
        return self._views[key][0]

    def _view(self, step: Step, sees: Sees | None, use_store: bool, append: bool) -> View:
        rows = Rows.of(step)
        stored_step, stored = self.stored_before(step)
        stored = stored & use_store
        before = int(stored.nonzero()[:, -1].max()) + 1 if bool(stored.any()) else 0
        keep = step.keep
        appended = append or not use_store or step.feed.dim() > 1 or self._clash(step, stored)
        if appended:
            # the fed rows follow the store; of a slot that is kept twice the last feed is written
            end, images = before, torch.broadcast_shapes(stored.shape[:-1], step.feed.shape[:-1])
            if step.feed.dim() == 1:
                keep = keep & ~((step.feed[:, None] == step.feed) & keep).triu(1).any(-1)
            slot = torch.cat([torch.arange(end).expand(*images, -1), step.feed.expand(*images, -1)], -1)
            own = torch.cat([stored_step[..., :end].expand(*images, -1), step.own.expand(*images, -1)], -1)
            kept = torch.cat([stored[..., :end].expand(*images, -1), step.keep.expand(*images, -1)], -1)
            there = torch.cat(
                [stored[..., :end].expand(*images, -1), torch.ones(*images, step.rows, dtype=torch.bool)], -1
            )
            fed = torch.arange(end, end + step.rows)
        else:
            # the fed rows lie in the store at their slots; one that is not kept is there for its own step
            end, fed = max(before, int(step.feed.max()) + 1), step.feed
            slot, own, kept, there = (
                torch.arange(end),
                stored_step[..., :end].clone(),
                stored[..., :end].clone(),
                stored[..., :end].clone(),
            )
            own[..., fed], kept[..., fed], there[..., fed] = step.own, step.keep, True
        level = None
        if self._levels is not None and (sees or self.sees):  # a stored row has the level of the step that stored it
            level = _pick(self._levels, own, slot, 1)
            level[..., fed] = rows.level_or_zero()
        seen = self.visible(rows, Rows(slot, own, kept, level), sees) & there[..., None, :]
        mask = None if bool(seen.all()) else seen[:, None] if seen.dim() == 3 else seen
        first = int(step.feed.reshape(-1)[0])
        together = step.feed.dim() == 1 and torch.equal(step.feed, torch.arange(first, first + step.rows))
        return View(
            step.feed,
            first if together else None,
            end,
            mask,
            appended,
            keep,
            bool(keep.all()),
            not bool(keep.any()),
            before,
        )

    def _clash(self, step: Step, stored: Tensor) -> bool:
        """Whether fed rows must not be written over the store before they attend: a slot is fed twice, a stored row
        survives a feed that is not kept, or steps of a join that come before its next feed still read it."""
        again = bool(stored[..., step.feed].any())
        twice = step.feed.unique().numel() < step.rows
        return twice or (again and len(step.steps) > 1) or bool((stored[..., step.feed] & ~step.keep).any())


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


def _pick(table: Tensor, step: Tensor, slot: Tensor, axes: int) -> Tensor:
    """table (images, steps, S) at steps and slots that broadcast, of `axes` axes behind that of images, if there is one."""
    if table.shape[0] == 1:
        return table[0][step, slot]
    return table[torch.arange(table.shape[0]).view(-1, *[1] * axes), step, slot]


def _shift(table: Tensor, by: int, fill: int) -> Tensor:
    """Rows of table (images, steps, S) moved by one step (1 or -1), the open end filled."""
    edge = torch.full_like(table[:, :1], fill)
    return torch.cat([edge, table[:, :-1]] if by == 1 else [table[:, 1:], edge], 1)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the last axis; orders of one image and shared orders may meet."""
    images = max((t.shape[0] for t in tensors if t.dim() == 2), default=None)
    if images is not None:
        tensors = [t if t.dim() == 2 else t.expand(images, -1) for t in tensors]
    return torch.cat(list(tensors), -1)
