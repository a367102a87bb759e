"""Diffusion in discrete time: the tables of a process, fewer steps of it, its loss, and its ancestral sampler.

Tables are float64; what is looked up becomes float32 where it meets tensors. It knows no network: a sampler is given a
function, a loss what a network said. The network predicts the noise and, by its second half, where the variance lies
between its two bounds. Source: Nichol and Dhariwal 2021 (arXiv 2102.09672); sheet `mar`, Diffusion process.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nextset.core.errors import NextsetError

STEPS = 1000
GRAMMAR = "a number ('100'), numbers for equal sections ('10,15,20'), 'ddimN' for a fixed stride, or '' for all steps"
# from (x_t (..., C), original step) to the predicted noise and the variance's place v, both like x_t
Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def respacing(text: str, steps: int = STEPS) -> list[int]:
    """Which of `steps` steps a sampler keeps, ascending; the first and the last of each section are among them.

    Anything but `GRAMMAR` is refused. One step alone is refused too: the variance of its last transition has no table.
    """
    text = str(text).strip()
    known = f"inner steps are {text!r}, but must be {GRAMMAR}"
    if text.startswith("ddim"):
        wanted = text.removeprefix("ddim")
        strides = [s for s in range(1, steps) if str(len(range(0, steps, s))) == wanted]
        if not strides:
            raise NextsetError(f"{known}; no whole stride over {steps} steps gives {wanted or 'nothing'} of them")
        return list(range(0, steps, strides[0]))
    parts = [part.strip() for part in text.split(",")] if text else [str(steps)]
    if not all(part.isdigit() and int(part) for part in parts):
        raise NextsetError(known)
    kept: list[int] = []
    start = 0
    for i, count in enumerate(map(int, parts)):
        size = steps // len(parts) + (i < steps % len(parts))
        if count > size:
            raise NextsetError(f"{known}; a section of {size} steps cannot give {count}")
        stride, at = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):  # added up, not multiplied: ties are rounded as the authors' code rounds them
            kept.append(start + round(at))
            at += stride
        start += size
    if len(kept) < 2:
        raise NextsetError(f"{known}; at least 2 steps are needed")
    return kept


class Trace(NamedTuple):
    """The last transition that was sampled: its mean and standard deviation, and the sum of log standard deviations of
    all transitions before it (without temperature); shapes as the sample's."""

    mean: Tensor
    std: Tensor
    log_std: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise at S steps. timesteps: (S,) int64, the original number of each, which is
    what a network is told; betas: (S,) float64. Arguments k below are indices into them, a number or a tensor (rows,)."""

    timesteps: Tensor
    betas: Tensor

    @cached_property
    def alphas(self) -> Tensor:
        """a_t: (S,) product of 1 - beta up to t."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def before(self) -> Tensor:
        """a_{t-1}, 1 at the first step."""
        return torch.cat([self.alphas.new_ones(1), self.alphas[:-1]])

    @cached_property
    def log_variance(self) -> Tensor:
        """Log variance of q(x_{t-1} | x_t, x_0); that of the first step, which is 0, is replaced by the second's."""
        variance = self.betas * (1 - self.before) / (1 - self.alphas)
        return torch.cat([variance[1:2], variance[1:]]).log()

    @cached_property
    def log_beta(self) -> Tensor:
        """The upper bound of the log variance."""
        return self.betas.log()

    @cached_property
    def to_clean(self) -> tuple[Tensor, Tensor]:
        """Factors of x_t and of the noise in it, whose difference is x_0."""
        return (1 / self.alphas).sqrt(), (1 / self.alphas - 1).sqrt()

    @cached_property
    def of_clean(self) -> Tensor:
        """Factor of x_0 in the mean of q(x_{t-1} | x_t, x_0)."""
        return self.betas * self.before.sqrt() / (1 - self.alphas)

    @cached_property
    def of_noisy(self) -> Tensor:
        """Factor of x_t in it."""
        return (1 - self.before) * (1 - self.betas).sqrt() / (1 - self.alphas)

    def kept(self, timesteps: list[int]) -> Process:
        """The same process at fewer steps, with betas that lead from one to the next."""
        at = torch.tensor(timesteps, device="cpu")
        alphas = self.alphas[at]
        return Process(self.timesteps[at], 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]]))

    def noisy(self, x0: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """x_t of x_0 (rows, C)."""
        return _at(self.alphas.sqrt(), k, x0) * x0 + _at((1 - self.alphas).sqrt(), k, x0) * noise

    def clean(self, x: Tensor, k: Tensor | int, noise: Tensor) -> Tensor:
        """x_0 of x_t and the noise in it, not clipped."""
        of_noisy, of_noise = self.to_clean
        return _at(of_noisy, k, x) * x - _at(of_noise, k, x) * noise

    def mean(self, x0: Tensor, x: Tensor, k: Tensor | int) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return _at(self.of_clean, k, x) * x0 + _at(self.of_noisy, k, x) * x

    def learned_log_variance(self, v: Tensor, k: Tensor | int) -> Tensor:
        """Log variance between the bounds: v = -1 gives q's, 1 gives log beta, others the line through them."""
        share = (v + 1) / 2
        return share * _at(self.log_beta, k, v) + (1 - share) * _at(self.log_variance, k, v)

    def bound(self, x0: Tensor, x: Tensor, k: Tensor, noise: Tensor, v: Tensor) -> Tensor:
        """Variational bound of each row in bits, mean over channels: (rows,). x0, x, noise, v: (rows, C); k (rows,).

        KL(q || p) of the transition; at step 0 the negative log likelihood of x_0 in bins of 1/255, as if it were pixels.
        """
        mean, log = self.mean(self.clean(x, k, noise), x, k), self.learned_log_variance(v, k)
        true_mean, true_log = self.mean(x0, x, k), _at(self.log_variance, k, x)
        kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp())
        nats = torch.where(k[:, None] == 0, _binned(x0, mean, 0.5 * log), kl)
        return nats.mean(-1) / math.log(2)

    def sample(
        self, x: Tensor, predict: Predict, noise: Callable[[int], Tensor], temperature: Tensor | float = 1.0
    ) -> tuple[Tensor, Trace]:
        """From x at the last step (pure noise) to x_0, one ancestral transition a step.

        noise(i): standard normal like x for transition i, 0 = the noisiest; the last adds none and asks for none.
        temperature scales it.
        """
        total, last = torch.zeros_like(x), len(self.timesteps) - 1
        mean, log = x, total
        for i, t in enumerate(reversed(self.timesteps.tolist())):
            k = last - i
            epsilon, v = predict(x, t)
            mean, log = self.mean(self.clean(x, k, epsilon), x, k), 0.5 * self.learned_log_variance(v, k)
            if k:
                x, total = mean + log.exp() * noise(i) * temperature, total + log
        return mean, Trace(mean, log.exp() * temperature, total)


@cache
def cosine(text: str = "", steps: int = STEPS) -> Process:
    """The process whose a_t is cos^2 of a quarter wave, at the steps that `respacing` keeps of it."""

    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)]
    whole = Process(torch.arange(steps, device="cpu"), torch.tensor(betas, dtype=torch.float64, device="cpu"))
    kept = respacing(text, steps)
    return whole if len(kept) == steps else whole.kept(kept)


@cache
def cosine_strided(count: int) -> Process:
    """`cosine` at so many steps of one stride, rounded where it is no whole number, from step 0 on: "ddimN" for any N.

    Those after the last stride are left out; at the noisiest, an error of the predicted noise moves x_0 farthest.
    """
    return cosine().kept([k * STEPS // count for k in range(count)])


def _at(table: Tensor, k: Tensor | int, like: Tensor) -> Tensor:
    """Entries of a table: a number, which takes the place and dtype of what it meets, or (rows, 1) float32 beside rows."""
    if isinstance(k, int):
        return table[k]
    return table.to(like.device, torch.float32)[k][:, None]


def _binned(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log probability of x in a bin of 1/255 to each side under a normal law, with open bins beyond +-0.999."""

    def below(u: Tensor) -> Tensor:  # an approximation of the normal distribution function
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    upper, lower = (below((-log_std).exp() * (x - mean + side / 255)) for side in (1, -1))
    inside = torch.where(x > 0.999, 1 - lower, torch.where(x < -0.999, upper, upper - lower))
    return -inside.clamp_min(1e-12).log()
