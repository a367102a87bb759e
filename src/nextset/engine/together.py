"""Several runs of one network in one trunk call a round: requests at different steps share a batch, and a new one may enter
while others are half way (continuous batching).

This is for runs that keep nothing between steps: a step then needs no more than its own rows, whatever step that is. Each
run keeps its own plan, noise, guidance, filters and controllers, and gives the picture that it gives alone. What is shared
is everything that a trunk does slot by slot; attention is asked of each run's own context, so that masks, windows and
policies are those of the run. It does not know what a token means, nor who waits for which picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.events import Done, Event, StepDone
from nextset.core.protocols import Extra
from nextset.core.rows import cat_rows, map_rows
from nextset.core.steps import Step
from nextset.engine.context import Context
from nextset.engine.run import Run, advance, enter, following

# Slots of a line where forwards differ in length. Shorter lines pad less (at 16, scales of 1 to 16 cells a side are
# padded by a tenth in all); longer ones repeat the condition of a row less often.
WIDTH = 16


def together(runs: list[Run]) -> Iterator[tuple[Run, Event]]:
    """Advance all runs by one forward a round until none is left: (run, event) pairs, `StepDone` and `Done` as `proceed`.

    runs: read again before each round. Append a run, and it enters at its own first step; one that is over leaves the
    list. Forwards of one phase make one call of the trunk. Hidden states differ from those of a run alone by rounding.
    Raises NextsetError, before anything moves, for runs of several networks, or of a policy that remembers.
    """
    while runs:
        for run in runs:
            _check(run, runs[0])
        steps = [(run, following(run)) for run in runs]
        over = [run for run, step in steps if step is None]
        runs[:] = [run for run, step in steps if step is not None]
        phases: dict[str, list[tuple[Run, Step]]] = {}
        for run, step in steps:
            if step is not None:
                phases.setdefault(step.phase, []).append((run, step))
        events: list[tuple[Run, Event]] = [(run, Done(run.codes())) for run in over]
        for group in phases.values():
            for (run, step), taps in zip(group, shared(group), strict=True):
                events.append((run, StepDone(step.index, len(run.job.plan), advance(run, step, taps))))
        yield from events


def _check(run: Run, first: Run) -> None:
    if run.job.network is not first.job.network:
        raise NextsetError(
            "runs of several networks cannot share a forward; give each network's runs to a call of its own"
        )
    if run.policy.remembers:
        raise NextsetError(
            f"a run of plan {run.job.plan.name!r} has a memory (policy {type(run.policy).__name__}), but only runs that keep nothing "
            "share a forward; run it alone with finish(run)"
        )


def shared(group: Sequence[tuple[Run, Step]]) -> list[tuple[Tensor, ...]]:
    """Hidden states of one step of each run, from one call of the trunk: for each run (rows, n, C), one tensor a tap."""
    inputs, contexts, conditions = [], [], []
    for run, step in group:
        active = run.active(step)
        x, ctx = enter(run, step, active)
        inputs.append(x)
        contexts.append(ctx)
        conditions.append(run.condition(active))
    lines = Lines.of([(x.shape[0], x.shape[1]) for x in inputs])
    cond = cat_rows([lines.repeat(c, i) for i, c in enumerate(conditions)])
    h = group[0][0].job.network.trunk(lines.pack(inputs), cond, Shared(contexts, lines))
    return list(zip(*(lines.unpack(tap) for tap in (h if isinstance(h, tuple) else (h,))), strict=True))


@dataclasses.dataclass(frozen=True)
class Lines:
    """How the rows of several forwards lie in one batch: each is cut into lines of `width` slots, the last one padded with
    zeros. sizes: (rows, n) of each forward. Where all have the same n, a line is a row."""

    sizes: tuple[tuple[int, int], ...]
    width: int

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> Lines:
        lengths = {n for _, n in sizes}
        return cls(tuple(sizes), max(lengths) if len(lengths) == 1 else min(WIDTH, max(lengths)))

    def each(self, i: int) -> int:
        """Lines of a row of forward i."""
        return -(-self.sizes[i][1] // self.width)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """(rows, n, ...) of each forward -> (lines, width, ...)."""
        cut = []
        for i, t in enumerate(parts):
            spare = self.each(i) * self.width - t.shape[1]
            t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, spare)) if spare else t
            cut.append(t.reshape(-1, self.width, *t.shape[2:]))
        return torch.cat(cut)

    def unpack(self, lines: Tensor) -> list[Tensor]:
        """(lines, width, ...) -> (rows, n, ...) of each forward; what lies in the padding is dropped."""
        parts = lines.split([rows * self.each(i) for i, (rows, _) in enumerate(self.sizes)])
        return [t.reshape(rows, -1, *t.shape[2:])[:, :n] for t, (rows, n) in zip(parts, self.sizes, strict=True)]

    def repeat(self, cond: Any, i: int) -> Any:
        """The condition of forward i, whose tensors have a leading rows axis, for each of its lines."""
        return cond if self.each(i) == 1 else map_rows(lambda t: t.repeat_interleave(self.each(i), 0), cond)


class Shared:
    """Implements `nextset.core.protocols.Context` for a forward of several runs, by asking the contexts of each."""

    def __init__(self, contexts: Sequence[Context], lines: Lines) -> None:
        self.contexts, self.lines = contexts, lines
        first = contexts[0].step
        self._one = all(c.step is first for c in contexts)
        self.step: Any = first if self._one else _Steps(first.phase)
        self._attributes: dict[str, Tensor] = {}

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
        if extra is not None:
            _refuse(f"keys of its own at {site!r}")
        parts = zip(*(self._unpack(t) for t in (q, k, v, *(raw or ()))), strict=True)
        found = [
            ctx.attend(site, *own[:3], scale=scale, raw=own[3:] or None)  # type: ignore[arg-type]
            for ctx, own in zip(self.contexts, parts, strict=True)
        ]
        return self.lines.pack([t.transpose(1, 2) for t in found]).transpose(1, 2)

    def _unpack(self, t: Tensor) -> list[Tensor]:
        """(lines, heads, width, d) -> (rows, heads, n, d) of each run."""
        return [part.transpose(1, 2) for part in self.lines.unpack(t.transpose(1, 2))]

    def attr(self, name: str) -> Tensor:
        """(n,) where all runs are at the same step, else (lines, width); 0 in the padding, which is a slot's valid value
        and is never read."""
        if name not in self._attributes:
            values = [ctx.attr(name) for ctx in self.contexts]
            if self._one and values[0].dim() == 1:
                self._attributes[name] = values[0]
            else:
                sizes = self.lines.sizes
                self._attributes[name] = self.lines.pack([t.expand(s) for t, s in zip(values, sizes, strict=True)])
        return self._attributes[name]

    def has(self, name: str, value: int) -> bool:
        return any(ctx.has(name, value) for ctx in self.contexts)

    def hook(self, site: str, h: Tensor) -> Tensor:
        if not any(ctx.hooks for ctx in self.contexts):
            return h
        parts = zip(self.contexts, self.lines.unpack(h), strict=True)
        return self.lines.pack([ctx.hook(site, part) for ctx, part in parts])

    def state(self, site: str) -> NoReturn:
        _refuse(f"a state at {site!r}")

    def keep(self, site: str, state: Any) -> NoReturn:
        _refuse(f"a state at {site!r}")

    def kept(self, site: str, attribute: str, value: int, k: Tensor, v: Tensor) -> NoReturn:
        _refuse(f"stored keys at {site!r}")


class _Steps:
    """Stands for a forward of several steps, of which only the phase is one."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def __getattr__(self, name: str) -> NoReturn:
        _refuse(f"the {name!r} of a single step")


def _refuse(what: str) -> NoReturn:
    raise NextsetError(
        f"the trunk asks for {what}, which runs at different steps cannot share; run each alone with finish(run)"
    )
