"""Diagonal plans: every position at the same distance from the first corner of a grid in one step, each read from its
neighbours that are nearer to that corner.

In a picture a step is an anti-diagonal, in a video a plane; the distance is the sum of the coordinates. Rows of one step see
each other. Source: He et al. 2025 (arXiv 2503.10696); sheet `nar`, Plan, context, cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.steps import Step
from nextset.core.views import Attributes, Sees

AXES = ("t", "y", "x")


def diagonal(conditions: int, shape: Sequence[int], *, nearest: bool = False, sees: Sees | None = None) -> Plan:
    """One step a diagonal of a grid (h, w), or (t, h, w), behind `conditions` slots that are fed first: sum(shape) - axes + 1
    steps. Positions are in raster order; slots lie in the order in which they are fed, so that a step writes behind
    what is stored and sees all of it.

    Taps: one column of `read` for each axis, the last axis first: the neighbour before a position along that axis, -1 where
    there is none. Of the first position, all of them are the last condition slot. nearest: a single tap, the first neighbour
    that there is. Inside a step positions ascend. Attributes: `segment` (0 condition, 1 value), `index` (of a condition in
    its segment, of a value its position), `rank` (distance), `y`, `x` and, of three axes, `t` of values. The default rule:
    conditions are causal among themselves; who else sees whom is history.
    """
    t, n = conditions, prod(shape)
    if t < 1 or not 1 <= len(shape) <= len(AXES) or min(shape) < 1:
        raise NextsetError(
            f"conditions, shape are {t}, {tuple(shape)}, but there must be a condition, and one to three positive sides"
        )
    cells = torch.cartesian_prod(*(torch.arange(s) for s in shape)).view(n, len(shape))
    rank = cells.sum(1)
    order = rank.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(n)  # of each position in that order
    held = order[:-1]  # the last value is never fed
    slots = {
        "segment": (torch.arange(t + n - 1) >= t).long(),
        "index": torch.cat([torch.arange(t), held]),
        "rank": _behind(t, rank[held]),
        **{name: _behind(t, cells[held, a]) for a, name in enumerate(AXES[-len(shape) :])},
    }
    steps = [Step.make(0, torch.arange(t), order[:1], torch.full((1, 1 if nearest else len(shape)), t - 1))]
    groups = order.split(torch.bincount(rank).tolist())
    for before, draw in itertools.pairwise(groups):
        first = int(place[before[0]])
        read = _neighbours(draw, cells[draw], shape, place - first)
        if nearest:
            read = read.gather(1, (read >= 0).to(torch.uint8).argmax(1, keepdim=True))
        steps.append(Step.make(len(steps), torch.arange(t + first, t + first + len(before)), draw, read))
    return Plan(slots, tuple(steps), n, sees or causal_conditions, name="diagonal")


def causal_conditions(q: Attributes, k: Attributes) -> Tensor:
    """Conditions see those before them; values see whatever history lets them."""
    return (q.segment == 1) | (k.slot <= q.slot)


def _neighbours(positions: Tensor, cells: Tensor, shape: Sequence[int], row: Tensor) -> Tensor:
    """(m, axes) rows of the neighbours before positions (m,) at cells (m, axes), the last axis first, -1 where there is
    none. row: of each position in the feed."""
    columns = []
    for axis in reversed(range(len(shape))):
        before = (positions - prod(shape[axis + 1 :])).clamp_min(0)
        columns.append(torch.where(cells[:, axis] > 0, row[before], -1))
    return torch.stack(columns, 1)


def _behind(conditions: int, values: Tensor) -> Tensor:
    """An attribute that conditions do not have, 0 for them."""
    return torch.cat([torch.zeros(conditions, dtype=torch.int64), values])
