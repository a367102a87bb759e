"""The head that draws all tokens of a map together, by following a velocity from noise to data, and its law.

A map (a scale) is one draw: its tokens depend on each other through the network. A law may hold several maps, one behind
another, which do not. The first branch is the conditional one; guidance sums the velocities of all, from a time on.
Source: arXiv 2412.15205; sheet `flowar`, Training and Sampling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError, check_range
from nextset.core.protocols import Filter, NoiseSource
from nextset.core.rows import map_rows
from nextset.core.steps import Step
from nextset.heads.flow_net import FlowNet, Known, Side
from nextset.heads.implicit import HEAD_BATCH, Implicit
from nextset.nn.flow import Solver, noised, solver, velocity

Grid = Callable[[int], Solver]  # from a number of inner steps to how a velocity is followed


class Flowed(Implicit):
    """Law of maps of tokens.

    maps: (h, w) of each, one behind another, m positions together. solver: how the velocity is followed. guided_below:
    branches other than the first count where t is at most this. values (N, m, C), given (N, m): a map that is given as a
    whole is not drawn, and comes back as it is.
    """

    kind = "flow"
    parts = (*Implicit.parts, "maps", "grid", "solver", "guided_below", "values", "given")

    def __init__(
        self,
        net: FlowNet,
        hidden: Tensor,
        maps: tuple[Side, ...],
        grid: Grid,
        values: Tensor,
        given: Tensor,
        solver: Solver | None = None,
        guided_below: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(net, hidden, **base)
        self.maps, self.grid, self.guided_below, self.values, self.given = maps, grid, guided_below, values, given
        self.solver = grid(50) if solver is None else solver

    def by_position(self) -> dict[str, tuple[Tensor, int]]:
        return {**super().by_position(), "values": (self.values, 1), "given": (self.given, 1)}

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """The laws of consecutive maps; a map is not cut."""
        ends = list(itertools.accumulate(h * w for h, w in self.maps))
        cuts = [0, *(1 + ends.index(end) for end in itertools.accumulate(sizes))]
        whole = zip(super().split(sizes), itertools.pairwise(cuts), strict=True)
        return [part.replace(maps=self.maps[a:b]) for part, (a, b) in whole]

    def join(self, parts: Sequence[Self]) -> Self:
        return super().join(parts).replace(maps=tuple(side for part in parts for side in part.maps))

    def inner(self, steps: int, strided: bool = False) -> Self:
        if strided:
            raise NextsetError("a flow's inner steps have no stride; leave ddim out of head_steps")
        return self.replace(solver=self.grid(steps))

    @torch.no_grad()
    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """See `Implicit.draw`. h: hidden states of the first branch."""
        assert self.weights is not None, "guide comes before draw"
        first = noise.normal(images, positions, attempt=attempt, lanes=self.net.channels).to(self.hidden.device)
        sizes, found = [h * w for h, w in self.maps], []
        by_map = zip(self.split(sizes), first.split(sizes, 1), strict=True)
        for law, x in by_map:
            if bool(law.given.all()):
                found.append(law.values.to(x))
                continue
            # whole maps at a time, all branches of an image together
            step = max(1, self.batch // (len(law.hidden) * x.shape[1]))
            hidden = law.hidden.split(step, 1)
            found.append(torch.cat([law._followed(h, part) for h, part in zip(hidden, x.split(step), strict=True)]))
        return Drawn(torch.cat(found, 1), h=self.hidden[0])

    def _followed(self, hidden: Tensor, x: Tensor) -> Tensor:
        """One map of some images: hidden (branches, N, m, D), x (N, m, C) noise -> tokens (N, m, C) float32."""
        assert self.weights is not None
        weights, n = self.weights.to(x.device)[:, None, :, None], len(x)
        turn = self.net.turn(self.maps[0])
        several = bool((self.weights[1:] != 0).any())
        known = self.net.know(hidden.flatten(0, 1) if several else hidden[0], turn)
        alone: Known = map_rows(lambda t: t[:n], known)

        def predict(x: Tensor, t: float) -> Tensor:
            if not several or t > self.guided_below:
                return self.net(x.float(), t, alone, turn).to(x.dtype)
            rows = x.float().repeat(len(weights), 1, 1)
            return (self.net(rows, t, known, turn).unflatten(0, (-1, n)) * weights).sum(0).to(x.dtype)

        return self.solver.sample(x.double(), predict).float()


def followed_with(solver: Solver, guided_below: float = 1.0, batch: int = HEAD_BATCH) -> Filter:
    """How a law of maps is drawn: along which times, from which time on with guidance, and how many rows at a time (which
    changes nothing but memory)."""
    check_range("guidance_interval", guided_below, 0, 1, remedy="it is the time below which guidance acts; 1 = always")
    check_range("head_batch", batch, 1, remedy="it is a number of rows")

    def apply(law: Any) -> Flowed:
        if not isinstance(law, Flowed):
            raise NextsetError(f"a flow's solver cannot be given to a law of kind {law.kind!r}; leave it out")
        return law.replace(solver=solver, guided_below=guided_below, batch=batch)

    return apply


class Flow(nn.Module):
    """The head: hidden states to a law, and its loss. Stays float32 when a model is cast.

    grid: what a number of inner steps means; evenly spaced times by default.
    """

    keeps_float32 = True

    def __init__(self, net: FlowNet, grid: Grid | None = None) -> None:
        super().__init__()
        self.net = net
        self.grid = grid or (lambda steps: solver("euler", steps))

    def dist(self, h: tuple[Tensor, ...], step: Step, now: tuple[Tensor, Tensor]) -> Flowed:
        """h: one tap (rows, m, D) -> the law of the maps that the step draws, in 50 inner steps unless a filter says
        otherwise. now: values (N, m, C) and which of them are given (N, m)."""
        return Flowed(self.net, h[0].float(), _maps(step), self.grid, *now)

    def loss(self, h: Tensor, target: Tensor, step: Step, noise: NoiseSource, images: Tensor) -> Tensor:
        """Mean squared error of the velocity of each map: (maps,). h (N, m, D), target (N, m, C), of what the step draws.

        Each image and map has a time of its own, of purpose `t`, addressed by images (N,) and the map's number; the noise,
        of purpose `noise`, is addressed by position.
        """
        sides = _maps(step)
        t = noise.of("t").uniform(images, torch.arange(len(sides))).to(h.device)
        eps = noise.of("noise").normal(images, step.draw, lanes=self.net.channels).to(h.device)
        v = self.velocities(h, target, sides, t, eps)
        error = (v.float() - velocity(target, eps)).square()
        return torch.stack([part.mean() for part in error.split([h * w for h, w in sides], 1)])

    def velocities(self, h: Tensor, target: Tensor, sides: Sequence[Side], t: Tensor, noise: Tensor) -> Tensor:
        """Predicted velocities (N, m, C) of maps that are noised to times t (N, maps)."""
        sizes, found = [h * w for h, w in sides], []
        by_map = zip(sides, t.unbind(1), *(x.split(sizes, 1) for x in (h, target, noise)), strict=True)
        for side, time, hidden, x, eps in by_map:
            turn = self.net.turn(side)
            noisy = noised(x, eps, time[:, None, None])
            found.append(self.net(noisy, time, self.net.know(hidden, turn), turn))
        return torch.cat(found, 1)


def _maps(step: Step) -> tuple[Side, ...]:
    """Sides of the maps that a step draws, in order."""
    drawing = [single for single in step.steps if single.draw.shape[-1]]
    if any(single.shape is None for single in drawing):
        raise ValueError("a flow head draws maps: the steps of its plan must say their shape")
    return tuple(single.shape[1:] for single in drawing)  # type: ignore[index]
