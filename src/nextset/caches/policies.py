"""Memory policies: what attention keeps of earlier forwards. Siblings with the same verbs:
`attend`, `kept`, `end`, `select`, `truncate`, `bytes`.

A policy knows the view of the plan (which slots, which mask) and the rows of the batch; it does not know what model it
serves. Its state belongs to one run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.protocols import Extra
from nextset.core.steps import Step
from nextset.core.views import Part, View
from nextset.nn.attention import attention
from nextset.nn.neighbourhood import neighbourhood_attention


class Nothing:
    """Keep nothing: a row attends to rows of its own forward. For training, and for systems without memory."""

    remembers = False

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: Any,
        *,
        scale: float | None = None,
        raw: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> Tensor:
        parts = ctx.parts() if extra is None else None
        if parts is not None:
            return _part_by_part(q, k, v, parts, scale)
        mask = ctx.mask(stored=False)
        k, v, mask = with_extra(k, v, mask, extra, ctx, torch.arange(0), q.shape[-2])
        return attention(q, k, v, mask, scale)

    def kept(self, site: str, slots: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
        raise NextsetError("this run keeps nothing, so that no stored prefix can be read; use cache='full'")

    def end(self, step: Step) -> None:
        pass

    def select(self, rows: Tensor) -> None:
        pass

    def truncate(self, lengths: Tensor) -> None:
        pass

    def bytes(self) -> int:
        return 0


def _part_by_part(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], scale: float | None) -> Tensor:
    """Attention of steps that do not see each other: no score between them is computed, and none is masked."""
    sizes, done = [part.rows for part in parts], []
    for part, a, b, c in zip(parts, *(t.split(sizes, -2) for t in (q, k, v)), strict=True):
        if part.window is None:
            done.append(attention(a, b, c, part.mask, scale))
        else:
            size, kernel = part.window
            done.append(neighbourhood_attention(a, b, c, size, kernel, scale))
    return done[0] if len(done) == 1 else torch.cat(done, -2)


class State(Nothing):
    """Keep no keys: attention sees rows of its own forward, and what earlier steps have to say is in the states of
    recurrent layers."""

    remembers = True


@dataclasses.dataclass
class _Store:
    """Keys and values of one site: (branches that own a memory, N, H, S, d) each."""

    k: Tensor
    v: Tensor

    def __post_init__(self) -> None:
        self.rows = self.k.flatten(0, 1), self.v.flatten(0, 1)  # the same storage: (branches * N, H, S, d) each


class Full:
    """Keep everything that the plan keeps, in storage that is allocated once and addressed by slot.

    A step writes its rows at their slots and attends to a slice of the same storage: nothing grows, nothing is copied.
    Rows that must not touch what is stored (a slot fed twice in a join, a step that keeps nothing over a kept slot, a
    branch that reads another's memory) are appended to the stored keys instead.
    """

    remembers = True

    def __init__(self) -> None:
        self._stores: dict[str, _Store] = {}
        self._valid: Tensor | None = None  # (branches * N, S) after a truncate, else None: all that the plan says

    def _store(self, site: str, k: Tensor, v: Tensor, ctx: Any) -> _Store:
        if site not in self._stores:
            shape = (ctx.owners, ctx.entries, k.shape[1], ctx.plan.size)
            self._stores[site] = _Store(k.new_zeros(*shape, k.shape[-1]), v.new_zeros(*shape, v.shape[-1]))
        return self._stores[site]

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: Any,
        *,
        scale: float | None = None,
        raw: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> Tensor:
        store = self._store(site, k, v, ctx)
        view: View = ctx.view()
        mask = ctx.mask()
        graph = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        if view.appended:
            past_k, past_v = (self._read(t, ctx, view.before) for t in (store.k, store.v))
            keys, values = torch.cat([past_k, k], -2), torch.cat([past_v, v], -2)
            stored = torch.arange(view.before)
        elif graph:
            # what was kept is a constant; the fed rows carry gradients. Attention reads a copy: later steps write into
            # the storage, which the backward pass would read
            keys, values = (
                put(self._read(t, ctx, view.end).detach().clone(), view, x) for t, x in ((store.k, k), (store.v, v))
            )
            stored = torch.arange(view.end)
        else:
            keys, values = (
                self._through(t, rows, ctx, view, x)
                for t, rows, x in zip((store.k, store.v), store.rows, (k, v), strict=True)
            )
            if mask is None and self._valid is None and extra is None:
                return attention(q, keys, values, None, scale)
            stored = torch.arange(view.end)
        if self._valid is not None:
            mask = self._restrict(mask, ctx, view, stored, q.shape[-2])
        if not view.keeps_none and (view.appended or graph):
            self._keep(store, ctx, view, k, v)
        keys, values, mask = with_extra(keys, values, mask, extra, ctx, stored, 0 if not view.appended else k.shape[-2])
        return attention(q, keys, values, mask, scale)

    # ---- storage

    @property
    def whole(self) -> bool:
        """Whether no row has forgotten anything."""
        return self._valid is None

    def sites(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of every site that was attended at, (branches * N, H, S, d) each: the storage itself."""
        return {site: store.rows for site, store in self._stores.items()}

    def _read(self, t: Tensor, ctx: Any, end: int) -> Tensor:
        """Stored rows of the memories that the running branches read: (rows, H, end, d), a view where possible."""
        lines: list[int] = ctx.memories
        if lines == list(range(lines[0], lines[0] + len(lines))):
            return t[lines[0] : lines[0] + len(lines)].flatten(0, 1)[:, :, :end]
        return t[torch.tensor(lines, device=t.device)].flatten(0, 1)[:, :, :end]

    def _through(self, t: Tensor, rows: Tensor, ctx: Any, view: View, x: Tensor) -> Tensor:
        """Write fed rows x to their slots of t, and read what is offered to them. rows: t as rows."""
        if ctx.span is None or view.start is None:
            self._write(t, ctx, view, x)
            return self._read(t, ctx, view.end)
        first, count = ctx.span
        if count != rows.shape[0]:
            rows = rows.narrow(0, first, count)
        rows.narrow(2, view.start, x.shape[2]).copy_(x.detach())
        return rows if view.end == rows.shape[2] else rows.narrow(2, 0, view.end)

    def _write(self, t: Tensor, ctx: Any, view: View, x: Tensor) -> None:
        x = x.detach()
        lines: list[int] = ctx.memories
        for i, line in enumerate(lines):
            put(t[line], view, x[i * ctx.entries : (i + 1) * ctx.entries], into=True)

    def _keep(self, store: _Store, ctx: Any, view: View, k: Tensor, v: Tensor) -> None:
        """Store the kept rows of a forward that attended beside the store; the last feed of a slot wins."""
        picked = None if view.keeps_all else view.keep.nonzero().squeeze(-1)
        for i, line in enumerate(ctx.lines):
            if line is None:
                continue
            part = slice(i * ctx.entries, (i + 1) * ctx.entries)
            for t, x in ((store.k, k), (store.v, v)):
                rows, slots = x[part].detach(), view.slots
                if picked is not None:
                    rows, slots = rows[:, :, picked], slots[..., picked]
                put(t[line], dataclasses.replace(view, slots=slots, start=None), rows, into=True)

    def _restrict(self, mask: Tensor | None, ctx: Any, view: View, stored: Tensor, n: int) -> Tensor:
        assert self._valid is not None
        rows = torch.cat([self._valid[line * ctx.entries : (line + 1) * ctx.entries] for line in ctx.memories])
        fed = torch.zeros(rows.shape[1], dtype=torch.bool, device=rows.device)
        if not view.appended:
            fed[view.slots.reshape(-1)] = True
        there = (rows | fed)[:, stored]
        if view.appended:
            there = torch.cat([there, there.new_ones(there.shape[0], n)], -1)
        there = there[:, None, None]
        return there if mask is None else mask & there

    def kept(self, site: str, slots: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
        store = self._stores.get(site)
        if store is None:
            raise NextsetError(f"nothing is stored at {site!r} yet; run the steps that feed it first")
        return tuple(self._read(t, ctx, ctx.plan.size)[:, :, slots] for t in (store.k, store.v))  # type: ignore[return-value]

    # ---- verbs

    def end(self, step: Step) -> None:
        if self._valid is not None:
            slots = step.feed[..., step.keep].expand(self._valid.shape[0] if step.feed.dim() == 1 else -1, -1)
            slots = slots.repeat(self._valid.shape[0] // slots.shape[0], 1).to(self._valid.device)
            self._valid.scatter_(1, slots, True)

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i], in every branch."""
        for store in self._stores.values():
            store.__init__(store.k.index_select(1, rows), store.v.index_select(1, rows))  # type: ignore[misc]
        if self._valid is not None and self._stores:
            branches = next(iter(self._stores.values())).k.shape[0]
            self._valid = self._valid.unflatten(0, (branches, -1)).index_select(1, rows).flatten(0, 1)

    def truncate(self, lengths: Tensor) -> None:
        """Forget slots >= lengths[row] of each row (branches * N,); moves nothing."""
        if not self._stores:
            return
        size = next(iter(self._stores.values())).k.shape[3]
        valid = torch.arange(size, device=lengths.device) < lengths[:, None]
        self._valid = valid if self._valid is None else self._valid & valid

    def bytes(self) -> int:
        """Bytes of storage, exactly."""
        return sum(t.numel() * t.element_size() for s in self._stores.values() for t in (s.k, s.v))


def put(t: Tensor, view: View, x: Tensor, *, into: bool = False) -> Tensor:
    """Rows x (N, H, n, d) at the view's slots of t (N, H, S, d); in place when `into`, else with gradient."""
    if view.slots.dim() == 1:
        if into and view.start is not None:
            t[:, :, view.start : view.start + x.shape[-2]] = x
            return t
        return t.index_copy_(-2, view.slots, x.to(t.dtype)) if into else t.index_copy(-2, view.slots, x)
    index = view.slots[:, None, :, None].expand(x.shape)
    return t.scatter_(-2, index, x.to(t.dtype)) if into else t.scatter(-2, index, x)


def with_extra(
    k: Tensor, v: Tensor, mask: Tensor | None, extra: Extra | None, ctx: Any, stored: Tensor, fed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with a layer's extra keys behind them (see `Extra`).

    stored: slots of the first keys; fed: how many fed rows follow them.
    """
    if extra is None:
        return k, v, mask
    n, e = ctx.step.rows, extra.k.shape[-2]
    seen = (
        torch.ones(n, k.shape[-2], dtype=torch.bool, device=k.device)
        if mask is None
        else mask.expand(*mask.shape[:-2], n, k.shape[-2])
    )
    if extra.instead_of is not None:
        name, value = extra.instead_of
        of_slot = ctx.plan.slots[name] == value
        of_feed = of_slot[ctx.step.feed]
        of_keys = torch.cat([of_slot[stored], of_feed if fed else of_feed[..., :0]], -1)
        seen = seen & ~(~of_feed[..., :, None] & of_keys[..., None, :]).to(k.device)
    more = torch.ones(n, e, dtype=torch.bool, device=k.device) if extra.mask is None else extra.mask
    mask = torch.cat([seen, more.expand(*seen.shape[:-1], e)], -1)
    return torch.cat([k, extra.k], -2), torch.cat([v, extra.v], -2), mask


def make_policy(name: str) -> Full | Nothing:
    """The policy of a name: "full", "state" or "none"."""
    policies: dict[str, type[Full] | type[Nothing]] = {"full": Full, "state": State, "none": Nothing}
    if name not in policies:
        raise NextsetError(f"cache is {name!r}, but must be one of {', '.join(policies)}")
    return policies[name]()
