"""Canvases: what is known so far, and what the next forward's input is made of.

A canvas belongs to a run and holds one entry per (image, candidate); branches of guidance share it. Given values
(in-painting, edits, prefixes, teacher forcing) enter through `pin` and through nothing else.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise, Tape
from nextset.core.steps import Step

NoiseSource = Noise | Tape


class ResidualSum(Protocol):
    """What a residual pyramid needs of a quantiser: it is handed in, so that canvases know no tokenizer.

    channels: of the feature map. width: of the vectors that the scales are made of, one a token: the channels, or more
    where a token stands for a patch x patch of cells. lanes: bits of a token, None where a token is one id.
    """

    channels: int
    width: int
    patch: int
    lanes: int | None

    def embed(self, ids: Tensor) -> Tensor: ...
    def mix(self, weights: Tensor) -> Tensor: ...
    def contribution(self, h: Tensor, k: int, sides: Sequence[tuple[int, int]]) -> Tensor: ...
    def shrink(self, f: Tensor, side: tuple[int, int]) -> Tensor: ...


class Canvas(Protocol):
    """The seam between plan and world. Shapes: N entries, n fed slots, m drawn positions."""

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Called once, before the first step: canvases that begin as noise draw it here, by image."""
        ...

    def input(self, step: Step) -> Tensor:
        """What the fed slots are made of, (N, n, ...)."""
        ...

    def now(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """Values and known mask of the drawn positions, for heads that need them."""
        ...

    def write(self, step: Step, drawn: Drawn) -> None: ...
    def pin(self, values: Tensor, mask: Tensor) -> None: ...
    def pinned(self, step: Step) -> bool:
        """True when every position that the step draws is given."""
        ...

    def codes(self) -> Tensor: ...
    def select(self, rows: Tensor) -> None: ...


class Drawn:
    """What a head drew for the m positions of a step.

    value: (N, m, ...) ids, bits or latents. logp: (N, m) log probability under the filtered law, or None. mix: (N, m, V)
    weights that replace the single code by a mixture in the canvas, or None. h: hidden states, trace: of the last inner
    step; both None unless a head keeps them.
    """

    __slots__ = ("h", "logp", "mix", "trace", "value")

    def __init__(
        self,
        value: Tensor,
        logp: Tensor | None = None,
        mix: Tensor | None = None,
        h: Tensor | None = None,
        trace: object = None,
    ) -> None:
        self.value, self.logp, self.mix, self.h, self.trace = value, logp, mix, h, trace


class ResidualPyramid:
    """Ids (or bits) of scales that add up to one feature map, `f_hat` (N, C, h, w).

    The input of scale k is `f_hat` of the scales before it, shrunk to its side: (N, h_k w_k, width); scale 0 has none, and
    gets zeros. The sum before each scale is kept, so that a step may be looked at, drawn or given again; what came
    after it is then forgotten. Source: arXiv 2404.02905, section 3.2.
    """

    def __init__(
        self,
        quantiser: ResidualSum,
        sides: Sequence[tuple[int, int]],
        entries: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.quantiser, self.sides = quantiser, tuple(sides)
        self.starts = [0]
        for h, w in self.sides:
            self.starts.append(self.starts[-1] + h * w)
        length = self.starts[-1]
        lanes = () if quantiser.lanes is None else (quantiser.lanes,)
        self.ids = torch.zeros(entries, length, *lanes, dtype=torch.int64, device=device)
        self.given = torch.zeros(entries, length, dtype=torch.bool, device=device)
        # sums[k]: the scales before k, added up
        h, w = (side * quantiser.patch for side in self.sides[-1])
        self.sums = [torch.zeros(entries, quantiser.channels, h, w, dtype=dtype, device=device)]
        self._given_scales = [False] * len(self.sides)
        self._drawn_scales = [False] * len(self.sides)

    @property
    def done(self) -> int:
        """Scales that are in `f_hat`."""
        return len(self.sums) - 1

    @property
    def f_hat(self) -> Tensor:
        """The sum (N, C, h, w) of the scales that are done."""
        return self.sums[-1]

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing: the first input is zeros."""

    def scale(self, step: Step) -> int:
        """The scale whose positions a step draws: plans may have other steps between."""
        return bisect.bisect_right(self.starts, int(step.draw[0])) - 1

    def pin(self, values: Tensor, mask: Tensor) -> None:
        """Give ids (N, L) or bits (N, L, D) where mask (N, L) or (L,) is True; they replace what is drawn there."""
        if values.shape != self.ids.shape:
            raise NextsetError(
                f"pinned ids have shape {tuple(values.shape)}, but the canvas has {tuple(self.ids.shape)}; encode at the size of the plan"
            )
        mask = mask.to(self.given.device).expand_as(self.given)
        self.ids = torch.where(self._each(mask), values.to(self.ids), self.ids)
        self.given = self.given | mask
        whole = torch.stack([self.given[:, a:b].all() for a, b in zip(self.starts, self.starts[1:], strict=False)])
        self._given_scales = whole.tolist()
        if self.done:
            changed = torch.stack(
                [mask[:, a:b].any() for a, b in zip(self.starts, self.starts[1:], strict=False)]
            ).tolist()
            del self.sums[1 + next((k for k, yes in enumerate(changed) if yes), self.done) :]

    def pinned(self, step: Step) -> bool:
        return all(self._given_scales[self.scale(s)] for s in step.steps if s.draw.shape[-1])

    def _each(self, mask: Tensor) -> Tensor:
        """A mask over positions as one over what `ids` holds."""
        return mask if self.ids.dim() == 2 else mask[..., None]

    def _add(self, k: int, h: Tensor) -> None:
        added = self.quantiser.contribution(h, k, self.sides)
        self.sums.append(self.f_hat + added.to(self.f_hat.dtype))

    def _slice(self, k: int) -> slice:
        return slice(self.starts[k], self.starts[k + 1])

    def _reach(self, k: int) -> None:
        """Add up everything before scale k, which needs every scale before it."""
        while self.done < k:
            if not (self._given_scales[self.done] or self._drawn_scales[self.done]):
                raise NextsetError(
                    f"scale {k} was asked for while scale {self.done} is neither drawn nor given; run the steps in order"
                )
            self._add(self.done, self.quantiser.embed(self.ids[:, self._slice(self.done)]))

    def input(self, step: Step) -> Tensor:
        parts = []
        for single in step.steps:
            k = self.scale(single)
            self._reach(k)
            if k == 0:
                parts.append(self.f_hat.new_zeros(self.f_hat.shape[0], single.rows, self.quantiser.width))
            else:
                parts.append(self.quantiser.shrink(self.sums[k], self.sides[k]).flatten(2).transpose(1, 2))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.ids[:, step.draw], self.given[:, step.draw]

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given; scales must come in order."""
        offset = 0
        for single in step.steps:
            k, n = self.scale(single), single.draw.shape[-1]
            where, part = self._slice(k), slice(offset, offset + n)
            offset += n
            if self.done > k and self._given_scales[k]:  # a later input already needed it
                continue
            self._reach(k)
            del self.sums[k + 1 :]
            self._drawn_scales[k:] = [True] + [False] * (len(self.sides) - k - 1)
            given = self.given[:, where]
            ids = torch.where(self._each(given), self.ids[:, where], drawn.value[:, part])
            self.ids[:, where] = ids
            h = self.quantiser.embed(ids)
            if drawn.mix is not None:
                mixed = self.quantiser.mix(drawn.mix[:, part])
                h = torch.where(given[..., None], h, mixed.to(h.dtype))
            self._add(k, h)

    def total(self) -> Tensor:
        """The feature map (N, C, h, w) of all scales that are drawn, and of given ones that follow them directly."""
        while self.done < len(self.sides) and (self._given_scales[self.done] or self._drawn_scales[self.done]):
            self._reach(self.done + 1)
        return self.f_hat

    def codes(self) -> Tensor:
        """ids (N, L) or bits (N, L, D); those of scales not yet reached are 0 (or given)."""
        return self.ids

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i]."""
        self.ids, self.given, self.sums = self.ids[rows], self.given[rows], [s[rows] for s in self.sums]


class Ids:
    """Ids in raster order behind `conditions` slots: slot T + k holds position k, as `plans.raster` lays them out, or
    position order[k] of all L, where they are fed in another order.

    The input of a slot is the id that it holds, (N, n) int64; condition slots hold none, and get 0. by_table: a step may be
    known by tensors alone, and ids stay where they are in memory while no graph needs them (`engine/static.py`).
    """

    by_table = True

    def __init__(
        self,
        entries: int,
        length: int,
        *,
        conditions: int = 1,
        order: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.conditions, self.order = conditions, order
        self.ids = torch.zeros(entries, length, dtype=torch.int64, device=device)
        self.given = torch.zeros(entries, length, dtype=torch.bool, device=device)
        self._all_given, self._some_given = [False] * length, False

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing: the first input is the condition."""

    def pin(self, values: Tensor, mask: Tensor) -> None:
        """Give ids (N, L) where mask (N, L) or (L,) is True; they replace what is drawn there."""
        if values.shape != self.ids.shape:
            raise NextsetError(
                f"pinned ids have shape {tuple(values.shape)}, but the canvas has {tuple(self.ids.shape)}; encode at the size of the plan"
            )
        mask = mask.to(self.given.device).expand_as(self.given)
        self.ids = torch.where(mask, values.to(self.ids), self.ids)
        self.given = self.given | mask
        self._all_given, self._some_given = self.given.all(0).tolist(), bool(self.given.any())

    def pinned(self, step: Step) -> bool:
        return all(self._all_given[p] for p in step.draw.tolist())

    def input(self, step: Step) -> Tensor:
        fed = step.fed
        if self.order is None and fed is not None and fed.start >= self.conditions:
            return self.ids[:, fed.start - self.conditions : fed.stop - self.conditions]
        held = (step.feed - self.conditions).clamp_min(0)
        held = (held if self.order is None else self.order[held]).to(self.ids.device)
        return torch.where((step.feed >= self.conditions).to(self.ids.device), self.ids[:, held], 0)

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        at = step.draw if step.drawn is None else step.drawn
        return self.ids[:, at], self.given[:, at]

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given."""
        if step.drawn is not None and not self._some_given and not torch.is_grad_enabled():
            self.ids[:, step.drawn] = drawn.value
            return
        at = step.draw.to(self.ids.device)
        value = torch.where(self.given[:, at], self.ids[:, at], drawn.value)
        if torch.is_grad_enabled():
            self.ids = self.ids.index_copy(1, at, value)
        else:
            self.ids.index_copy_(1, at, value)

    def codes(self) -> Tensor:
        """ids (N, L); those not yet drawn are 0 (or given)."""
        return self.ids

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i]."""
        self.ids, self.given = self.ids[rows], self.given[rows]
