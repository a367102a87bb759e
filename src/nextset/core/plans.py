"""Families of plans, each a small function from sizes to a `Plan`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.steps import Step
from nextset.core.views import Sees


def scale_pyramid(sides: Sequence[int | tuple[int, int]], *, keep: bool = True, sees: Sees | None = None) -> Plan:
    """One step a scale: step k feeds the slots of scale k and draws all its positions in parallel.

    Slots lie scale after scale, raster order inside; attributes `scale`, `y`, `x` (cells of the own scale) and `h`, `w`
    (its sides). A position is read from its own slot. With no `sees`, history is the mask: own scale and all before it;
    keep=False leaves no history, and a scale sees itself alone.
    """
    pairs = [(s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in sides]
    if not pairs or min(min(p) for p in pairs) < 1:
        raise NextsetError(f"sides are {list(sides)}, but must be positive; give at least one scale")
    names: dict[str, list[torch.Tensor]] = {n: [] for n in ("scale", "y", "x", "h", "w")}
    steps, start = [], 0
    for k, (h, w) in enumerate(pairs):
        n = h * w
        slots = torch.arange(start, start + n)
        cell = torch.arange(n)
        for name, value in (
            ("scale", torch.full((n,), k)),
            ("y", cell // w),
            ("x", cell % w),
            ("h", torch.full((n,), h)),
            ("w", torch.full((n,), w)),
        ):
            names[name].append(value)
        steps.append(Step.make(k, slots, slots, keep=keep, shape=(1, h, w)))
        start += n
    return Plan({name: torch.cat(v) for name, v in names.items()}, tuple(steps), start, sees, name="scale_pyramid")


def raster(conditions: int, positions: int, *, width: int | None = None, sees: Sees | None = None) -> Plan:
    """One step a position in raster order, behind `conditions` slots that are fed first.

    Slot T-1+k yields position k: the last condition slot predicts the first position, and each drawn value is fed to
    predict the next. Attributes: `segment` (0 condition, 1 value), `index` (in its segment), `y`, `x` of values. The
    default rule is causal.
    """
    if conditions < 1 or positions < 1:
        raise NextsetError(f"conditions, positions are {conditions}, {positions}, but must be at least 1")
    width = width or positions
    t, n = conditions, positions - 1
    cell = torch.arange(n)
    slots = {
        "segment": torch.cat([torch.zeros(t, dtype=torch.int64), torch.ones(n, dtype=torch.int64)]),
        "index": torch.cat([torch.arange(t), cell]),
        "y": torch.cat([torch.zeros(t, dtype=torch.int64), cell // width]),
        "x": torch.cat([torch.zeros(t, dtype=torch.int64), cell % width]),
    }
    first = Step.make(0, torch.arange(t), torch.tensor([0]), torch.tensor([[t - 1]]))
    rest = [Step.make(k, torch.tensor([t + k - 1]), torch.tensor([k])) for k in range(1, positions)]
    return Plan(slots, (first, *rest), positions, sees or causal, name="raster")


def causal(q, k):  # type: ignore[no-untyped-def]
    """A row sees rows of its own and earlier slots."""
    return k.slot <= q.slot
