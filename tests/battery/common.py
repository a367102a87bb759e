"""What the battery's tests share: runs that write down what went through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.protocols import Head, Job
from nextset.core.steps import Step
from nextset.engine.run import Run, finish


class Tap:
    """A network that writes down the hidden states and active branches of every forward."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.hidden: list[tuple[Step, tuple[Tensor, ...]]] = []
        self.active: list[tuple[int, ...]] = []

    def prepare(self, conditions: Sequence[Any]) -> Any:
        return self.network.prepare(conditions)

    def trunk(self, x: Tensor, cond: Any, ctx: Any) -> Tensor | tuple[Tensor, ...]:
        h = self.network.trunk(x, cond, ctx)
        self.hidden.append((ctx.step, h if isinstance(h, tuple) else (h,)))
        self.active.append(ctx.active)
        return h

    def head(self, step: Step, cond: Any) -> Head:
        return self.network.head(step, cond)

    def by_step(self) -> dict[int, list[Tensor]]:
        """Hidden states (rows, n, C) of each single step, one a tap."""
        out: dict[int, list[Tensor]] = {}
        for step, taps in self.hidden:
            for tap in taps:
                for part, h in zip(step.steps, tap.split([s.rows for s in step.steps], 1), strict=True):
                    out.setdefault(part.index, []).append(h)
        return out


class Spy(Noise):
    """Noise that writes down every number by its address: (purpose, image, position, attempt) -> bits."""

    def __init__(self, seed: int, purpose: str = "", seen: dict[Any, Any] | None = None) -> None:
        super().__init__(seed, purpose)
        self.seen = {} if seen is None else seen

    def of(self, purpose: str) -> Spy:
        return Spy(self.seed, f"{self.purpose}/{purpose}", self.seen)

    def _note(self, kind: str, images: Tensor, positions: Tensor, attempt: int | Tensor, values: Tensor) -> Tensor:
        for i, image in enumerate(images.tolist()):
            own = positions if positions.dim() == 1 else positions[i]
            tried = int(attempt[i]) if isinstance(attempt, Tensor) else attempt
            for j, position in enumerate(own.tolist()):
                self.seen[self.purpose, kind, image, position, tried] = values[i, j].tolist()
        return values

    def uniform(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        return self._note(
            "uniform", images, positions, attempt, super().uniform(images, positions, attempt=attempt, lanes=lanes)
        )

    def normal(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        return self._note(
            "normal", images, positions, attempt, super().normal(images, positions, attempt=attempt, lanes=lanes)
        )

    def normals(
        self, purposes: Sequence[str], images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int
    ) -> Tensor:
        found = super().normals(purposes, images, positions, attempt=attempt, lanes=lanes)
        for purpose, values in zip(purposes, found, strict=True):
            self.of(purpose)._note("normal", images, positions, attempt, values)
        return found


def generate(job: Job, images: Tensor, *, noise: Noise | None = None, **options: Any) -> tuple[Run, Tensor]:
    """A finished run and its images."""
    run = Run.of(job, noise or Noise(0), images, **options)
    return run, finish(run)


def every_branch(job: Job) -> Callable[[Step], tuple[int, ...]]:
    """In place of `Run.active`: all branches run at every step."""
    every = tuple(range(len(job.branches)))
    return lambda step: every


def weigh(job: Job, others: Callable[[Step], float]) -> Callable[[Step], tuple[float, ...]]:
    """Weights 1 for the first branch and `others(step)` for each other one."""
    rest = len(job.branches) - 1
    return lambda step: (1.0, *[others(step)] * rest)


def everything(codes: Tensor) -> Tensor:
    """The mask that gives all codes."""
    return torch.ones(codes.shape[1], dtype=torch.bool)


def same(found: Tensor, expected: Tensor) -> bool:
    """Ids exactly; latents to 1e-5 of their own size, for products of other numbers of rows round otherwise."""
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
