"""The head that draws each continuous token by a small diffusion network, given its hidden state, and its law.

What a filter may change is how the law is drawn (`drawn_with`).
Source: arXiv 2406.11838, section 3.2; sheet `mar`, Head net and Sampling.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError, check_range
from nextset.core.protocols import Filter, NoiseSource
from nextset.core.steps import Step
from nextset.heads.implicit import HEAD_BATCH, Implicit
from nextset.nn.diffusion import STEPS, Process, cosine, cosine_strided

_FEATURES = 256  # of a time step
_LEAST = 8  # rows: at 16 an image alone would pay for as many again
_AHEAD = 2**16  # numbers of noise in a block


class Diffused(Implicit):
    """Law of m tokens that are independent given their hidden states, each drawn by a chain of denoising steps.

    process, temperature (m,): how it is drawn, see `drawn_with`. Guidance sums the predicted noise; the variance is that of
    the first branch.
    """

    parts = (*Implicit.parts, "process", "temperature")

    def __init__(
        self, net: TokenDenoiser, hidden: Tensor, process: Process, temperature: Tensor | None = None, **base: Any
    ) -> None:
        super().__init__(net, hidden, **base)
        self.process = process
        self.temperature = torch.ones(hidden.shape[-2]) if temperature is None else temperature

    def by_position(self) -> dict[str, tuple[Tensor, int]]:
        return {**super().by_position(), "temperature": (self.temperature, 0)}

    def inner(self, steps: int, strided: bool = False) -> Self:
        return self.replace(process=cosine_strided(steps) if strided else cosine(str(steps)))

    @torch.no_grad()
    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """See `Implicit.draw`. Transition i has the purpose `step/i` under that of the first noise.

        trace: a `nn.diffusion.Trace` (N, m, C); h: hidden states of the first branch.
        """
        assert self.weights is not None, "guide comes before draw"
        device = self.hidden.device
        weights = self.weights.to(device)[:, None, :, None]
        condition = self.net.condition(self.hidden)

        first = noise.normal(images, positions, attempt=attempt, lanes=self.net.channels).to(device)

        @lru_cache(maxsize=1)
        def block(i: int) -> Tensor:
            turns = range(i * ahead, min((i + 1) * ahead, len(self.process.timesteps) - 1))
            purposes = [f"step/{j}" for j in turns]
            return noise.normals(purposes, images, positions, attempt=attempt, lanes=self.net.channels).to(device)

        def predict(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            out = self._rows(x.expand(len(weights), *x.shape), t, condition)
            epsilon, v = out.chunk(2, -1)
            return (epsilon * weights).sum(0), v[0]

        ahead = max(_AHEAD // first.numel(), 1)  # transitions whose noise is drawn at once
        value, trace = self.process.sample(
            first, predict, lambda i: block(i // ahead)[i % ahead], self.temperature.to(device)[:, None]
        )
        return Drawn(value, h=self.hidden[0], trace=trace)

    def _rows(self, x: Tensor, t: int, condition: Tensor) -> Tensor:
        """The network on (branches, N, m, C), `batch` rows at a time."""
        time = torch.tensor([t], device=x.device)
        flat = zip(x.flatten(0, -2).split(self.batch), condition.flatten(0, -2).split(self.batch), strict=True)
        parts = [self.net(_filled(rows), time, _filled(c))[: len(rows)] for rows, c in flat]
        return torch.cat(parts).unflatten(0, x.shape[:-1])


def _filled(rows: Tensor) -> Tensor:
    """At least 8 rows: products of very few take other paths in the libraries of matrices and round otherwise, which the
    first inner steps, where x_0 is a noisy x divided by nearly nothing, would make visible."""
    return F.pad(rows, (0, 0, 0, max(_LEAST - len(rows), 0)))


def drawn_with(inner_steps: str = "100", temperature: float = 1.0, batch: int = HEAD_BATCH) -> Filter:
    """How a law is drawn: in which steps of its process (`nn.diffusion.respacing`), with how much of the noise
    that is injected between them (the first noise is never scaled), and how many rows at a time (which changes nothing
    but memory)."""
    check_range("temperature", temperature, 0, 10, remedy="1 leaves the law as it is")
    check_range("head_batch", batch, 1, remedy="it is a number of rows")
    process = cosine(str(inner_steps))

    def apply(law: Any) -> Diffused:
        if not isinstance(law, Diffused):
            raise NextsetError(f"inner steps cannot be given to a law of kind {law.kind!r}; leave them out")
        level = torch.full((law.hidden.shape[-2],), float(temperature))
        return law.replace(process=process, temperature=level, batch=batch)

    return apply


class DenoiserBlock(nn.Module):
    """x + gate * mlp(norm(x) * (1 + scale) + shift), all three made of the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x (rows, W), condition after SiLU (rows, W)."""
        shift, scale, gate = self.modulation(hidden).chunk(3, -1)
        return x + gate * self.down(F.silu(self.up(self.norm(x) * (1 + scale) + shift)))


class TokenDenoiser(nn.Module):
    """A network of one token: noisy x (rows, C), time (rows,) or (1,), condition (rows, W) -> noise and v, (rows, 2 C)."""

    def __init__(self, condition: int, channels: int, depth: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.time_in, self.time_out = nn.Linear(_FEATURES, width), nn.Linear(width, width)
        self.condition = nn.Linear(condition, width)
        self.input = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(DenoiserBlock(width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, 2 * channels)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights of the authors' draws: whatever modulates, and the output, begin at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name.endswith("modulation") or name == "output"
                (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time_in, self.time_out):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000) * torch.arange(_FEATURES // 2, device=x.device) / (_FEATURES // 2))
        angles = time[:, None].float() * rates
        waves = torch.cat([angles.cos(), angles.sin()], -1)
        hidden = F.silu(self.time_out(F.silu(self.time_in(waves))) + condition)
        h = self.input(x)
        for block in self.blocks:
            h = block(h, hidden)
        shift, scale = self.modulation(hidden).chunk(2, -1)
        return self.output(F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class Diffusion(nn.Module):
    """The head: hidden states to a law, and its loss. Stays float32 when a model is cast."""

    keeps_float32 = True

    def __init__(self, width: int, channels: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.net = TokenDenoiser(width, channels, depth, hidden)

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any = None) -> Diffused:
        """h: one tap (rows, m, D) -> the law of the m tokens, drawn in 100 steps unless a filter says otherwise."""
        return Diffused(self.net, h[0].float(), cosine("100"))

    def loss(
        self, h: Tensor, target: Tensor, noise: NoiseSource, images: Tensor, positions: Tensor, repeats: int = 1
    ) -> tuple[Tensor, Tensor]:
        """(squared error, variational bound in bits) of each token, (N, m) both; their sum is what is trained.

        h (N, m, D), target (N, m, C). Each token is noised `repeats` times, at steps and with noise of purposes `t/j` and
        `noise/j`, addressed by images (N,) and positions (m,) or (N, m).
        """
        found = []
        for j in range(repeats):
            u = noise.of(f"t/{j}").uniform(images, positions).to(h.device)
            eps = noise.of(f"noise/{j}").normal(images, positions, lanes=self.net.channels).to(h.device)
            t = (u * STEPS).long().clamp_max(STEPS - 1)
            terms = self.terms(h.flatten(0, 1), target.flatten(0, 1), t.flatten(), eps.flatten(0, 1))
            found.append(torch.stack(terms).unflatten(1, t.shape))
        mse, bound = torch.stack(found).mean(0)
        return mse, bound

    def terms(self, h: Tensor, target: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same of rows h (rows, D), target (rows, C) at steps t (rows,) with noise (rows, C): (rows,) both.

        The bound trains the variance alone: the predicted noise is a constant in it.
        """
        process = cosine()
        x = process.noisy(target, t, noise)
        predicted, v = self.net(x, t, self.net.condition(h)).float().chunk(2, -1)
        mse = (noise - predicted).square().mean(-1)
        return mse, process.bound(target, x, t, predicted.detach(), v)
