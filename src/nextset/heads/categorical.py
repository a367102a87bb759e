"""The categorical law over ids or bits, and the softmax head that makes it.

Filters are applied after guidance, probabilities and log probabilities are those of the filtered law, and a draw is
an inverse CDF over ascending ids with one uniform per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.noise import categorical
from nextset.core.protocols import Filter, NoiseSource
from nextset.core.steps import Step
from nextset.nn.linear import linear


class Categorical:
    """Law of m independent ids, or of m tokens of D independent ones each (bits: V = 2).

    logits: (branches * N, m, V) before `guide`, then (N, m, V), float32; -inf where a filter removed an id. With D
    factors, (..., m, D, V): each has a law of its own, which is what filters reshape.
    raw: the logits before any filter. soft: (factor of the logits, temperature) of a soft draw, see
    `engine.filters.smooth`. ordered: the largest logits in falling order, where a filter left them.
    """

    kind = "categorical"

    def __init__(
        self,
        logits: Tensor,
        raw: Tensor | None = None,
        soft: tuple[float, float] | None = None,
        ordered: Tensor | None = None,
    ) -> None:
        self.logits, self.raw, self.soft, self.ordered = logits, logits if raw is None else raw, soft, ordered

    def guide(self, weights: Sequence[float | Tensor], branches: int) -> Categorical:
        """Fold the rows of `branches` branches into entries: sum of weight x logits; weights are numbers or (m,)."""
        rows = self.logits.reshape(branches, -1, *self.logits.shape[1:])
        total: Tensor | None = None
        for weight, logits in zip(weights, rows, strict=True):
            if isinstance(weight, Tensor):
                weight = weight.to(logits).view(-1, *[1] * (logits.dim() - 2))
            elif weight == 1 and branches == 1:
                return Categorical(logits)
            total = logits * weight if total is None else total + logits * weight
        assert total is not None
        return Categorical(total)

    def filter(self, chain: Sequence[Filter]) -> Categorical:
        law = self
        for f in chain:
            law = f(law)
        return law

    def replace(
        self, logits: Tensor | None = None, *, soft: tuple[float, float] | None = None, ordered: Tensor | None = None
    ) -> Categorical:
        """A copy with other logits or another soft draw; the raw logits stay."""
        return Categorical(self.logits if logits is None else logits, self.raw, soft or self.soft, ordered)

    def split(self, sizes: Sequence[int]) -> list[Categorical]:
        """The laws of consecutive groups of positions."""
        parts = zip(self.logits.split(list(sizes), 1), self.raw.split(list(sizes), 1), strict=True)
        return [Categorical(a, b, self.soft) for a, b in parts]

    def join(self, parts: Sequence[Categorical]) -> Categorical:
        """The law of all groups again."""
        return Categorical(
            torch.cat([p.logits for p in parts], 1), torch.cat([p.raw for p in parts], 1), parts[-1].soft
        )

    @property
    def probs(self) -> Tensor:
        """(N, m, V) or (N, m, D, V) probabilities of the filtered law."""
        return self.logits.softmax(-1)

    def logp(self, value: Tensor) -> Tensor:
        """Log probability (N, m) of ids (N, m), or of tokens (N, m, D), under the filtered law."""
        each = self.logits.log_softmax(-1).gather(-1, value[..., None]).squeeze(-1)
        return each if each.dim() == 2 else each.sum(-1)

    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """One id per position, or D: one a lane. images (N,), positions (m,) or (N, m) address the noise.

        logp is left to be asked for (`law.logp(drawn.value)`): most systems never read it.
        """
        lanes = self.logits.shape[2] if self.logits.dim() == 4 else None
        u = noise.uniform(images, positions, attempt=attempt, lanes=lanes).to(self.logits.device)
        ids = categorical(self.probs, u)
        mix = None
        if self.soft is not None:
            ratio, temperature = self.soft
            u = (
                noise.of("soft")
                .uniform(images, positions, attempt=attempt, lanes=self.logits.shape[-1])
                .to(self.logits.device)
            )
            gumbel = -torch.log(-torch.log(u.clamp(1e-20, 1 - 2.0**-24)))
            mix = ((self.logits * ratio + gumbel) / temperature).softmax(-1)
        return Drawn(ids, mix=mix)


class Softmax(nn.Module):
    """Linear classifier over V ids, in float32 whatever dtype a model is cast to.

    factors: D: a token is D independent ids of V each (bits: V = 2); the output of factor i for id v is D V long, at
    i V + v (arXiv 2412.04431, section 3.2).
    """

    keeps_float32 = True

    def __init__(self, width: int, vocabulary: int, factors: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.vocabulary, self.factors = vocabulary, factors
        self.weight = nn.Parameter(torch.empty((factors or 1) * vocabulary, width))
        self.bias = nn.Parameter(torch.zeros((factors or 1) * vocabulary)) if bias else None
        nn.init.trunc_normal_(self.weight, std=width**-0.5)

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any = None) -> Categorical:
        """h: one tap (rows, m, C) -> the law of the m positions."""
        return Categorical(self.logits(h[0]))

    def logits(self, h: Tensor) -> Tensor:
        """(..., C) -> float32 (..., V) or (..., D, V). Weights stay float32 when a model is cast; under autocast, as in training, the
        product runs in its dtype."""
        out = linear(h.float(), self.weight, self.bias).float()
        return out if self.factors is None else out.unflatten(-1, (self.factors, self.vocabulary))
