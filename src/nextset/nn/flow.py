"""Flow matching: a straight path from data to noise, its velocity, and solvers that follow a network's velocity back.

The time convention of this code base, wherever flows are: t = 0 is data, t = 1 is noise, x_t = (1 - t) x_0 + t noise,
and a network predicts the velocity noise - x_0. Files of other conventions are turned round when they are converted.
Times are float64; the time that a network is told is that of a float32. It knows no network: a solver is given what one
said. Source: Lipman et al. 2023 (arXiv 2210.02747); Ma et al. 2024 (arXiv 2401.08740); sheet `xar`, Sampling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError, check_range, nearest

Kind = Literal["euler", "heun", "sde"]
KINDS = ("euler", "heun", "sde")
LAST = 0.04  # time of the last noisy point of the released SDE grid
LEAST_SDE = 3


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of data and standard normal noise; t broadcasts against them."""
    return (1 - t) * x0 + t * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """The velocity along the path: what a network is trained to predict."""
    return noise - x0


@dataclasses.dataclass(frozen=True)
class Solver:
    """How a velocity is followed from noise to data.

    times: descending float64, from 1 to 0; one interval between neighbours. kind: "euler" and "heun" (the trapezoid)
    follow the flow itself; "sde" adds noise of rate 2 t and the drift that keeps the law of x_t for it, except in the
    last interval. Shapes: x, v, noise alike.
    """

    times: tuple[float, ...]
    kind: Kind = "euler"

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or not falling or self.times[0] > 1 or self.times[-1] < 0:
            raise NextsetError(
                f"times of a flow are {list(self.times)}, but must fall from 1 to 0; give at least one interval"
            )
        _known(self.kind)

    def __len__(self) -> int:
        """Number of intervals."""
        return len(self.times) - 1

    @property
    def calls(self) -> int:
        """Calls of the network: one an interval, and one more of each but the last for Heun's."""
        return 2 * len(self) - 1 if self.kind == "heun" else len(self)

    def noisy(self, i: int) -> bool:
        """Whether interval i adds noise."""
        return self.kind == "sde" and i < len(self) - 1

    def update(self, i: int, x: Tensor, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """x at the end of interval i, of x and its velocity at the beginning. noise: standard normal, where `noisy(i)`.

        Of Heun's method this is the first half: a step of Euler's.
        """
        t, dt = self.times[i], self.times[i + 1] - self.times[i]
        if self.kind != "sde":
            return x + dt * v
        moved = x + dt * (x + (2 - t) * v)  # v - t * score, where score = -((1 - t) v + x) / t
        if not self.noisy(i):
            return moved
        if noise is None:
            raise ValueError(f"interval {i} of the SDE adds noise; hand it in")
        return moved + math.sqrt(2 * t * -dt) * noise

    def sample(
        self,
        x: Tensor,
        predict: Callable[[Tensor, float], Tensor],
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """From x at the first time to x at the last. predict(x, t) -> velocity like x; noise(i): standard normal like
        x, asked for where `noisy(i)`. The state keeps the dtype of x."""
        for i, t in enumerate(self.times[:-1]):
            v = predict(x, t)
            if self.kind == "heun" and i < len(self) - 1:  # at t = 0 no network was trained: the last is Euler's
                v = (v + predict(self.update(i, x, v), self.times[i + 1])) / 2
            x = self.update(i, x, v, noise(i) if noise is not None and self.noisy(i) else None)
        return x


def solver(kind: str, intervals: int) -> Solver:
    """A solver of so many intervals on its usual grid: evenly from 1 to 0, or for the SDE evenly from 1 to 0.04 and
    then to 0, which needs 3 intervals at least."""
    _known(kind)
    least = LEAST_SDE if kind == "sde" else 1
    check_range("num_steps", intervals, least, 10000, remedy=f"the sampler {kind!r} needs at least {least}")
    if kind == "sde":
        times = [*torch.linspace(1, LAST, intervals, dtype=torch.float64, device="cpu").tolist(), 0.0]
    else:
        times = torch.linspace(1, 0, intervals + 1, dtype=torch.float64, device="cpu").tolist()
    return Solver(tuple(times), kind)  # type: ignore[arg-type]


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise NextsetError(f"the sampler is {kind!r}, but must be one of {', '.join(KINDS)}; {nearest(kind, KINDS)}")


# ---- what a network is told of the time


def thousandths(t: Tensor | float) -> Tensor:
    """Time as the number that a network is told: float32, times 1000, truncated to int64 in [0, 1000].

    In float64 some times would give another number (0.68: 679 instead of 680), so the cast comes first.
    """
    return (torch.as_tensor(t).to(torch.float32) * 1000).to(torch.int64)


def waves(number: Tensor, features: int = 256, period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of a number (...,) at rates from 1 down to 1 / period: (..., features) float32."""
    half = features // 2
    rates = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=number.device) / half)
    angles = number[..., None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class TimeEmbedding(nn.Module):
    """A vector of a time: its truncated thousandths as waves, then Linear, SiLU, Linear."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.enter, self.leave = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, t: Tensor | float) -> Tensor:
        """t (...,) in [0, 1] -> (..., width)."""
        number = thousandths(t).to(self.enter.weight.device)
        return self.leave(F.silu(self.enter(waves(number, self.features).to(self.enter.weight.dtype))))
