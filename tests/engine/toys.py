"""A small system for tests of the engine: ids in a sequence, one attention site, a recurrent site on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.plan import Plan
from nextset.core.plans import raster
from nextset.core.protocols import Filter, Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.heads.categorical import Softmax

V, WIDTH = 11, 8


class Ids:
    """A row of ids; slot T-1+k is made of the id of position k-1, condition slots of nothing."""

    def __init__(self, plan: Plan, entries: int) -> None:
        self.plan = plan
        self.ids = torch.zeros(entries, plan.positions, dtype=torch.int64)
        self.given = torch.zeros(entries, plan.positions, dtype=torch.bool)

    def begin(self, noise: object, images: Tensor) -> None:
        """Nothing is drawn at the start."""

    def input(self, step: Step) -> Tensor:
        segment, index = self.plan.slots["segment"][step.feed], self.plan.slots["index"][step.feed]
        return torch.where(segment == 1, self.ids[:, index], -1)

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.ids[:, step.draw], self.given[:, step.draw]

    def write(self, step: Step, drawn: Drawn) -> None:
        self.ids[:, step.draw] = torch.where(self.given[:, step.draw], self.ids[:, step.draw], drawn.value)

    def pin(self, values: Tensor, mask: Tensor) -> None:
        self.given = self.given | mask
        self.ids = torch.where(mask, values, self.ids)

    def pinned(self, step: Step) -> bool:
        return bool(self.given[:, step.draw].all())

    def codes(self) -> Tensor:
        return self.ids

    def select(self, rows: Tensor) -> None:
        self.ids, self.given = self.ids[rows], self.given[rows]


class Toy(nn.Module):
    """Embedding, one attention (and, if asked, a running sum as recurrent layer), a softmax head."""

    def __init__(self, *, recurrent: bool = False, conditioned: bool = True) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.recurrent, self.conditioned = recurrent, conditioned
        self.embedding = nn.Parameter(torch.randn(V + 1, WIDTH, generator=g))
        self.place = nn.Parameter(torch.randn(64, WIDTH, generator=g))
        self.qkv = nn.Parameter(torch.randn(3, WIDTH, WIDTH, generator=g) / WIDTH**0.5)
        self.classifier = Softmax(WIDTH, V)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.randn(V, WIDTH, generator=g) / 8)  # laws that are not sure
        self.ran: list[tuple[tuple[int, ...], int]] = []
        self.headed: list[int] = []

    def prepare(self, conditions: Sequence[Any]) -> Any:
        return torch.cat(list(conditions)) if self.conditioned else None

    def trunk(self, x: Tensor, cond: Any, ctx: Any) -> Tensor:
        self.ran.append((ctx.active, x.shape[0]))
        h = self.embedding[x] + self.place[ctx.attr("slot")]
        if cond is not None:
            h = h + cond[:, None]
        q, k, v = ((h @ w)[:, None] for w in self.qkv)
        h = h + ctx.hook("attention", ctx.attend("attention", q, k, v)[:, 0])
        if self.recurrent:
            total = ctx.state("sum")
            sums = h.cumsum(1) + (0 if total is None else total["s"])
            ctx.keep("sum", {"s": sums[:, -1:]})
            h = torch.tanh(sums)
        return h

    def head(self, step: Step, cond: Any) -> Softmax:
        self.headed.append(step.index)
        return self.classifier


def conditions(n: int, branch: int = 0) -> Tensor:
    """(n, WIDTH), the same for an entry whatever the batch is."""
    return torch.stack(
        [torch.randn(WIDTH, generator=torch.Generator().manual_seed(100 * branch + i)) for i in range(n)]
    )


def job(n: int = 2, positions: int = 5, *, weights: Callable[[Step], Sequence[Any]] | None = None, toy: Toy | None = None,
        filters: Sequence[Filter] = (), prefix: int = 1, plan: Plan | None = None, images: Tensor | None = None) -> Job:  # fmt: skip
    """A request for n rows of ids under two branches, guided by 2, -1 unless told otherwise."""
    plan = plan or raster(prefix, positions)
    images = torch.arange(n) if images is None else images
    top = int(images.max()) + 1
    branches = tuple(Branch(name, conditions(top, b)[images]) for b, name in enumerate(("with", "without")))
    return Job(
        network=toy or Toy(), plan=plan, canvas=Ids(plan, n), branches=branches, weights=weights or (lambda step: (2.0, -1.0)),
        filters=lambda step: list(filters), finish=lambda canvas: canvas.codes().float()[:, None, :, None].expand(-1, 3, -1, 1), entries=n,
    )  # fmt: skip


class Watch(Controller):
    """Writes down which points were reached, in order."""

    def __init__(self) -> None:
        self.points: list[str] = []

    def next(self, run, step):
        self.points.append(f"next {None if step is None else step.index}")
        return step

    def on_site(self, run, site, h):
        self.points.append(f"site {site}")
        return h

    def on_dist(self, run, step, dist):
        self.points.append(f"dist {step.index}")
        return dist

    def on_draw(self, run, step, drawn):
        self.points.append(f"draw {step.index}")
        return drawn

    def after(self, run, step, drawn):
        self.points.append(f"after {step.index} {drawn is not None}")
