"""The context of one forward: what a trunk may ask while it runs. Made by the engine, thrown away after the forward."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from nextset.core.plan import Plan
from nextset.core.protocols import Extra, Policy
from nextset.core.rows import Branch, cat_rows, map_rows
from nextset.core.steps import Step
from nextset.core.views import Part, View


class Context:
    """Implements `nextset.core.protocols.Context` for a set of running branches.

    entries: N, images (or candidates) of the run. branches: number of all branches. active: indices of those that run.
    memories: for each of them, the index of the branch whose memory it reads. states, pending: what recurrent layers kept
    before this forward, and would keep of it, by site and branch.
    """

    def __init__(
        self,
        plan: Plan,
        step: Step,
        policy: Policy,
        branches: tuple[Branch, ...],
        active: tuple[int, ...],
        entries: int,
        device: torch.device,
        states: dict[tuple[str, int], Any],
        pending: dict[tuple[str, int], Any],
        hooks: tuple[Any, ...] = (),
    ) -> None:
        self.plan, self.step, self.policy = plan, step, policy
        self.entries, self.branches, self.active = entries, len(branches), active
        self.device, self._states, self._pending, self.hooks = device, states, pending, hooks
        names = [b.name for b in branches]
        owners = [i for i, b in enumerate(branches) if b.memory is None]
        self.owners = len(owners)
        # line of the storage that each running branch reads, and its own (None: it owns none)
        self.memories = [owners.index(names.index(branches[i].reads)) for i in active]
        self.lines = [owners.index(i) if i in owners else None for i in active]
        self._append = None in self.lines
        self._rules = [branches[i].sees for i in active]
        # the rows of a store that the running branches read, where they lie side by side
        first, count = self.memories[0], len(active)
        side_by_side = self.memories == list(range(first, first + count))
        self.span = (first * entries, count * entries) if side_by_side else None
        self._attributes: dict[str, Tensor] = {}
        self._views: dict[bool, View] = {}
        self._masks: dict[tuple[bool, bool], Tensor | None] = {}
        self._hidden = [branches[i].hidden for i in active]

    # ---- for layers

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        raw: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> Tensor:
        return self.policy.attend(site, q, k, v, self, scale=scale, raw=raw, extra=extra)

    def attr(self, name: str) -> Tensor:
        if name not in self._attributes:
            values = self.plan.attribute(self.step, name, self.device)
            self._attributes[name] = values if values.dim() == 1 else values.repeat(len(self.active), 1)
        return self._attributes[name]

    def has(self, name: str, value: int) -> bool:
        return self.plan.has(self.step, name, value)

    def hook(self, site: str, h: Tensor) -> Tensor:
        for hook in self.hooks:
            h = hook(site, h)
        return h

    def state(self, site: str) -> Any:
        kept = [self._states.get((site, line)) for line in self.memories]
        return None if any(s is None for s in kept) else cat_rows(kept)

    def keep(self, site: str, state: Any) -> None:
        if not self.step.keeps:
            return
        for i, line in enumerate(self.lines):
            if line is not None:  # a branch that reads another's memory writes nothing
                own = operator.itemgetter(slice(i * self.entries, (i + 1) * self.entries))
                self._pending[site, line] = map_rows(own, state)

    def kept(self, site: str, attribute: str, value: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        slots = (self.plan.slots[attribute] == value).nonzero().squeeze(-1)
        fed = (self.step.feed == slots[:, None]).to(torch.uint8)
        if bool(fed.any(-1).all()):
            rows = fed.argmax(-1).to(self.device)
            return k[:, :, rows], v[:, :, rows]
        return self.policy.kept(site, slots.to(self.device), self)

    # ---- for policies

    def view(self, append: bool = False) -> View:
        """How a store addressed by slot serves this forward. append: as if the fed rows followed it, for policies with a
        layout of their own, which gather columns of the mask by the slots that they hold."""
        if append not in self._views:
            self._views[append] = self.plan.view(self.step, append=append or self._append, device=self.device)
        return self._views[append]

    def mask(self, stored: bool = True, append: bool = False) -> Tensor | None:
        """The mask over the view's keys, or over the fed rows alone when nothing is stored; None when all is seen."""
        append = append or self._append
        if (stored, append) not in self._masks:
            views = [
                self.plan.view(self.step, rule, stored=stored, append=append, device=self.device)
                for rule in self._rules
            ]
            mask = self._stack([v.mask for v in views], views[0])
            self._masks[stored, append] = self._without_padding(mask, views[0])
        return self._masks[stored, append]

    def parts(self) -> tuple[Part, ...] | None:
        """The steps of this forward, where each sees itself alone by the rule of the plan alone (`Plan.parts`)."""
        if any(rule is not None for rule in self._rules) or any(hidden is not None for hidden in self._hidden):
            return None
        return self.plan.parts(self.step, self.device)

    def _without_padding(self, mask: Tensor | None, view: View) -> Tensor | None:
        """Hide each row's padding from all but itself, so that no row is left without a key."""
        if all(h is None for h in self._hidden):
            return mask
        keys = torch.arange(view.end, device=self.device)
        own = view.slots[:, None] == keys
        if view.appended:
            keys, own = torch.cat([keys, view.slots]), torch.cat([own & False, view.slots[:, None] == view.slots], -1)
        none = torch.zeros(self.entries, self.plan.size, dtype=torch.bool, device=self.device)
        hidden = torch.cat([none if h is None else h.to(self.device) for h in self._hidden])[:, keys]
        allowed = ~hidden[:, None, None] | own
        return allowed if mask is None else mask & allowed

    def _stack(self, masks: list[Tensor | None], view: View) -> Tensor | None:
        """One mask for all running branches: shared where their rules agree, else one a row."""
        if all(m is masks[0] for m in masks) and (masks[0] is None or masks[0].dim() == 2):
            return masks[0]
        shape = next(m for m in masks if m is not None).shape[-2:]
        full = [torch.ones(shape, dtype=torch.bool, device=self.device) if m is None else m for m in masks]
        return torch.cat([m.expand(self.entries, 1, *shape) if m.dim() != 4 else m for m in full])
