"""Plans: in which order a generation feeds slots and draws positions, and who sees whom.

A plan is data, complete before a run begins. It knows neither network nor cache: `Plan.view(step)` says, for one
forward, which stored rows it reads and which of them each fed row may see. There is one rule of visibility for every
system here (`visible`), whether a forward is one step, several joined, or all of them at once (teacher forcing).
Slots, positions, steps and rows are the words of `core/steps.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.steps import Step
from nextset.core.views import Attributes, Part, Rows, Sees, View


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
            self._joins[parts] = Step.joined(parts)
        return self._joins[parts]

    @cached_property
    def _joins(self) -> dict[tuple[Step, ...], Step]:
        return {}

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

    def attribute(self, step: Step, name: str, device: torch.device | str = "cpu") -> Tensor:
        """An attribute of the fed rows of a forward: (n,), or (images, n) where images differ. Made once per step object."""
        key = (step, name, device)
        if key not in self._asked:
            self._asked[key] = self.attributes(step.feed, step.own, step.level)[name].to(device)
        return self._asked[key]

    def has(self, step: Step, name: str, value: int) -> bool:
        """Whether any fed row of a forward has this value of an attribute."""
        key = (step, name, value)
        if key not in self._asked:
            self._asked[key] = bool((self.attribute(step, name) == value).any())
        return self._asked[key]

    @cached_property
    def _asked(self) -> dict[Any, Any]:
        return {}

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

    def parts(self, step: Step, device: torch.device | str = "cpu") -> tuple[Part, ...] | None:
        """The steps of a forward with nothing stored, where each sees itself alone; None where rows see other steps', or
        where the forward is one step without a window. Made once per step object.

        The cost of attention is then the sum of the steps' squares, or less, and not the square of their sum.
        """
        key = (step, "parts", device)
        if key not in self._asked:
            self._asked[key] = self._parts(step, device)
        return self._asked[key]

    def _parts(self, step: Step, device: torch.device | str) -> tuple[Part, ...] | None:
        window = getattr(self.sees, "window", lambda step: None)
        mask = self.view(step, stored=False).mask
        if len(step.steps) == 1:
            kernel = window(step)
            return None if kernel is None else (Part(step.rows, (step.shape[1:], kernel), None),)  # type: ignore[index]
        if mask is None or mask.dim() != 2 or bool((mask & (step.own[:, None] != step.own)).any()):
            return None
        parts, first = [], 0
        for each in step.steps:
            kernel, rows = window(each), slice(first, first + each.rows)
            own = None if kernel is not None or bool(mask[rows, rows].all()) else mask[rows, rows].to(device)
            near = None if kernel is None else (each.shape[1:], kernel)  # type: ignore[index]
            parts.append(Part(each.rows, near, own))
            first = rows.stop
        return tuple(parts)

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


def _pick(table: Tensor, step: Tensor, slot: Tensor, axes: int) -> Tensor:
    """table (images, steps, S) at steps and slots that broadcast, of `axes` axes behind that of images, if there is one."""
    if table.shape[0] == 1:
        return table[0][step, slot]
    return table[torch.arange(table.shape[0]).view(-1, *[1] * axes), step, slot]


def _shift(table: Tensor, by: int, fill: int) -> Tensor:
    """Rows of table (images, steps, S) moved by one step (1 or -1), the open end filled."""
    edge = torch.full_like(table[:, :1], fill)
    return torch.cat([edge, table[:, :-1]] if by == 1 else [table[:, 1:], edge], 1)
