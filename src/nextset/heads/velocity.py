"""The law of a flow whose network is the trunk itself: a draw is one update of what is there towards the next level.

Guidance acts on velocities. Which interval of which solver an update crosses is a filter's to say (`crossing`), because
only the request knows it. Noise belongs to (image, position, interval).
Source: sheet `xar`, Sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.protocols import Filter, NoiseSource
from nextset.core.rows import fold
from nextset.core.steps import Step
from nextset.heads.implicit import WithoutDensity
from nextset.nn.flow import Solver


class Velocity(WithoutDensity):
    """Law of m tokens under way.

    velocity: (branches * N, m, C) before `guide`, then (N, m, C), float32. now: (N, m, C), the tokens that the network
    saw. solver, interval: what a draw crosses; None until `crossing` said it.
    """

    kind = "velocity"

    def __init__(self, velocity: Tensor, now: Tensor, solver: Solver | None = None, interval: int = 0) -> None:
        self.velocity, self.now, self.solver, self.interval = velocity, now, solver, interval

    def guide(self, weights: Sequence[float | Tensor], branches: int) -> Self:
        """The weighted sum of the branches' velocities; weights are numbers or (m,)."""
        each = fold(self.velocity, branches)
        table = [w.to(each)[:, None] if isinstance(w, Tensor) else w for w in weights]
        total = sum(v * w for v, w in zip(each, table, strict=True))
        return type(self)(total, self.now, self.solver, self.interval)  # type: ignore[arg-type]

    def filter(self, chain: Sequence[Filter]) -> Self:
        law = self
        for f in chain:
            law = f(law)
        return law

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """The laws of consecutive groups of positions."""
        pairs = zip(self.velocity.split(list(sizes), 1), self.now.split(list(sizes), 1), strict=True)
        return [type(self)(v, x, self.solver, self.interval) for v, x in pairs]

    def join(self, parts: Sequence[Self]) -> Self:
        """The law of all groups again, where they cross the same interval; else one that cannot be drawn."""
        first = parts[0]
        same = all((p.solver, p.interval) == (first.solver, first.interval) for p in parts)
        velocity, now = (torch.cat([getattr(p, name) for p in parts], 1) for name in ("velocity", "now"))
        return type(self)(velocity, now, first.solver if same else None, first.interval)

    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """The tokens at the end of the interval. images (N,), positions (m,) or (N, m) address its noise, whose purpose
        is `step/i`; lanes are channels. trace: (N, m, C), where the tokens would end if the velocity stayed."""
        if self.solver is None:
            raise ValueError("a draw crosses one interval of one solver: say which by the filter `crossing`")
        solver, i, eps = self.solver, self.interval, None
        if solver.noisy(i):
            source = noise.of(f"step/{i}")
            eps = source.normal(images, positions, attempt=attempt, lanes=self.now.shape[-1]).to(self.now)
        value = solver.update(i, self.now, self.velocity, eps)
        last = i == len(solver) - 1
        return Drawn(value, trace=value if last else self.now - solver.times[i] * self.velocity)


def crossing(solver: Solver, interval: int) -> Filter:
    """What a draw crosses: interval i of a solver."""

    def apply(law: Any) -> Velocity:
        if not isinstance(law, Velocity):
            raise NextsetError(f"a sampler of flows cannot be given to a law of kind {law.kind!r}; leave it out")
        return type(law)(law.velocity, law.now, solver, interval)

    return apply


class VelocityHead(nn.Module):
    """Hidden states to velocities: one linear map, which stays float32 when a model is cast."""

    keeps_float32 = True

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, channels)

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any) -> Velocity:
        """h: one tap (rows, m, D); now: (tokens (N, m, C) that the network saw, which of them are given)."""
        return Velocity(self.output(h[0].float()).float(), now[0])
