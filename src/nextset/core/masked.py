"""Masked plans: sets of positions in an order that belongs to the image, each predicted from all that is known.

Nothing is kept between steps: every step feeds the conditions, the known positions and the hidden ones anew, and every
fed row sees every other. A row's level says which is which: 1 is hidden, 0 is known (or a condition).
Source: Chang et al. 2022 (arXiv 2202.04200); sheet `mar`, Plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.canvases import NoiseSource
from nextset.core.errors import NextsetError, check_range
from nextset.core.plan import Plan
from nextset.core.steps import Step
from nextset.core.views import Sees, View


def cosine_counts(positions: int, steps: int) -> list[int]:
    """How many positions are still hidden after each step: along a quarter of a cosine, at least one a step, 0 at the end."""
    check_range("steps", steps, 1, positions, remedy="each step draws at least one position")
    left, found = positions, list[int]()
    for s in range(steps - 1):
        left = max(1, min(left - 1, math.floor(positions * math.cos(math.pi / 2 * (s + 1) / steps))))
        found.append(left)
    return [*found, 0]


def random_orders(noise: NoiseSource, images: Tensor, given: Tensor) -> Tensor:
    """A random order of the open positions of each image: (N, U). given: (N, L) bool, equally many open in each.

    An order is a function of seed, image and what is given of it.
    """
    open_each = (~given).sum(1)
    if len(open_each.unique()) > 1:
        raise NextsetError(
            f"the images of a run hide {int(open_each.min())} to {int(open_each.max())} positions, but must hide equally many; run them apart"
        )
    open_ = torch.argsort(given.to(torch.uint8), dim=1, stable=True)[:, : int(open_each[0])]
    return open_.gather(1, noise.uniform(images.cpu(), open_).argsort(dim=1, stable=True))


def masked_random(orders: Tensor, left: Sequence[int], positions: int, *, conditions: int = 0) -> Plan:
    """One step for each entry of `left`, after which that many of an order's positions are still hidden.

    orders: (U,), or (N, U) where they belong to the image; the tail is drawn first, and its first `left[k]` stay hidden
    after step k. Positions that are in no order are known from the start. Slots: `conditions` of them, then one for each
    position; a step feeds conditions, what it draws, what stays hidden, what is known (each ascending), and reads the
    drawn ones. Attributes: `segment` (0 condition, 1 position), `index` (in its segment).
    """
    known = _others(orders, positions)
    first = torch.arange(conditions).expand(*orders.shape[:-1], -1)
    steps, before = list[Step](), orders.shape[-1]
    for k, after in enumerate(left):
        check_range("left", after, 0, before - 1, remedy="each step draws at least one position")
        draw, rest = orders[..., after:before].sort(-1).values, orders[..., :after].sort(-1).values
        feed = torch.cat([first, conditions + draw, conditions + rest, conditions + known], -1)
        level = torch.zeros(feed.shape[-1])
        level[conditions : conditions + before] = 1.0
        read = conditions + torch.arange(before - after)[:, None]
        steps.append(Step.make(k, feed, draw, read, keep=False, level=level))
        known, before = torch.cat([known, draw], -1).sort(-1).values, after
    slots = {
        "segment": (torch.arange(conditions + positions) >= conditions).long(),
        "index": torch.cat([torch.arange(conditions), torch.arange(positions)]),
    }
    return Masked(slots, tuple(steps), positions, name="masked_random")


def hidden(step: Step) -> int:
    """How many of the rows that a step of a masked plan feeds are hidden; those it draws are among them."""
    assert step.level is not None
    return int(step.level.sum())


class Masked(Plan):
    """A plan of which nothing is stored: a forward of one step has no mask, which is known without asking the rule for
    each of its rows (orders that belong to images would make that a table an image and step)."""

    def view(
        self, step: Step, sees: Sees | None = None, *, stored: bool = True, append: bool = False, device: Any = "cpu"
    ) -> View:
        if sees is not None or len(step.steps) > 1:
            return super().view(step, sees, stored=stored, append=append, device=device)
        return View(step.feed, None, 0, None, True, step.keep, False, True, 0).to(device)


def _others(orders: Tensor, positions: int) -> Tensor:
    """Positions that are in no order, ascending: (..., L - U)."""
    taken = torch.zeros(*orders.shape[:-1], positions, dtype=torch.uint8).scatter_(-1, orders, 1)
    return torch.argsort(taken, dim=-1, stable=True)[..., : positions - orders.shape[-1]]
